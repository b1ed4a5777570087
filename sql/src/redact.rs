//! Statements as logs and `SHOW` may print them: without the secrets in their options.
//!
//! Invariant: a value whose option looks secret never leaves this module; a text that did not parse never does at all.

use crate::statement::{OptionValue, Statement, WithOption};

const REDACTED: &str = "[redacted]";

/// The canonical text with `'[redacted]'` for the value of every option that looks secret; references to a SECRET by
/// name stay.
pub fn redacted(statement: &Statement) -> String {
    let mut copy = statement.clone();
    hide(&mut copy);
    copy.to_string()
}

/// What may be said about a text that did not parse, so that its secrets cannot be found: its length and a fingerprint
/// by which two reports of one text are recognised.
pub fn redact_text(text: &str) -> String {
    // FNV-1a: stable across versions and platforms; short on purpose, it only tells texts apart.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("<{} bytes of SQL, {hash:08x}>", text.len())
}

fn hide(statement: &mut Statement) {
    match statement {
        Statement::CreateSource(source) => {
            hide_options(&mut source.with);
            if let Some(format) = &mut source.format {
                hide_options(&mut format.options);
            }
            source
                .elements
                .columns
                .iter_mut()
                .for_each(|column| hide_options(&mut column.options));
        }
        Statement::CreateTable(table) => {
            hide_options(&mut table.with);
            if let Some(format) = &mut table.format {
                hide_options(&mut format.options);
            }
            table
                .elements
                .columns
                .iter_mut()
                .for_each(|column| hide_options(&mut column.options));
        }
        Statement::CreateArchive(archive) => {
            hide_options(&mut archive.with);
            if let Some(encode) = &mut archive.encode {
                hide_options(&mut encode.options);
            }
        }
        Statement::CreateView(view) | Statement::CreateMaterializedView(view) => {
            hide_options(&mut view.with)
        }
        Statement::CreateSink(sink) => {
            hide_options(&mut sink.with);
            if let Some(format) = &mut sink.format {
                hide_options(&mut format.options);
            }
        }
        Statement::Explain(explain) => hide(&mut explain.statement),
        Statement::Declare(declare) => hide(&mut declare.statement),
        Statement::Prepare(prepare) => hide(&mut prepare.statement),
        _ => {}
    }
}

fn hide_options(options: &mut [WithOption]) {
    for option in options {
        if looks_secret(&option.name) && !matches!(option.value, OptionValue::Secret(_)) {
            option.value = OptionValue::String(REDACTED.to_string());
        }
    }
}

/// Errs on the side of hiding: `properties.sasl.mechanism` is hidden too.
fn looks_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "sasl.",
        "ssl.key",
        "private_key",
        "access_key",
        "access.key",
    ]
    .iter()
    .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_options_are_hidden_and_references_stay() {
        let text = "CREATE SOURCE s (a int) WITH (connector = 'kafka', properties.sasl.password = 'hunter2', \
                    properties.ssl.key.pem = SECRET pem, topic = 't') FORMAT PLAIN ENCODE JSON (token = 'hunter2')";
        let parsed = crate::parse(text).unwrap();
        let shown = redacted(&parsed[0].statement);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(
            shown,
            "CREATE SOURCE s (a INT) WITH (connector = 'kafka', properties.sasl.password = '[redacted]', \
             properties.ssl.key.pem = SECRET pem, topic = 't') FORMAT PLAIN ENCODE JSON (token = '[redacted]')"
        );
        let explained = crate::parse(&format!(
            "EXPLAIN CREATE SINK k FROM v WITH (password = 'hunter2')"
        ))
        .unwrap();
        assert!(!redacted(&explained[0].statement).contains("hunter2"));
    }

    #[test]
    fn unparsable_text_gives_length_and_fingerprint_only() {
        assert_eq!(redact_text("CREATE hunter2"), redact_text("CREATE hunter2"));
        assert_ne!(redact_text("CREATE hunter2"), redact_text("CREATE hunter3"));
        assert!(!redact_text("CREATE hunter2").contains("hunter2"));
        assert!(redact_text("abc").starts_with("<3 bytes"));
    }
}
