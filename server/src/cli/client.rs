//! `thalweg sql`: runs statements over the wire and prints tables.
//!
//! Invariant: with `--data-dir` the same wire code talks to a server started in this process, so both forms answer alike.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Failure, SqlArguments, serve};
use crate::config::Config;

pub(super) async fn sql(arguments: SqlArguments) -> Result<(), Failure> {
    let Some(data_dir) = arguments.data_dir.clone() else {
        return with_server(arguments.server, &arguments).await;
    };
    let running = serve::start(Config::ephemeral(data_dir)).await?;
    let result = with_server(running.pg, &arguments).await;
    running.stop().await;
    result
}

async fn with_server(server: SocketAddr, arguments: &SqlArguments) -> Result<(), Failure> {
    let client = connect(server).await?;
    let texts = match (&arguments.command, &arguments.file) {
        (Some(command), _) => vec![command.clone()],
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| {
                Failure::User(format!("could not read {}: {error}", path.display()))
            })?;
            statements(&text)
        }
        (None, None) => return prompt(&client).await,
    };
    for text in texts {
        print!("{}", run(&client, &text).await?);
    }
    Ok(())
}

/// A script's statements, which are sent one by one, as psql does: each is a transaction of its own unless there is a BEGIN. A
/// text that cannot be split stays whole, for the server to say why.
fn statements(text: &str) -> Vec<String> {
    match thalweg_sql::parse(text) {
        Ok(parsed) => parsed.into_iter().map(|parsed| parsed.text).collect(),
        Err(_) => vec![text.to_owned()],
    }
}

pub(super) async fn connect(server: SocketAddr) -> Result<Client, Failure> {
    let settings = format!(
        "host={} port={} user=thalweg dbname=thalweg application_name='thalweg sql'",
        server.ip(),
        server.port()
    );
    let (client, mut connection) =
        tokio_postgres::connect(&settings, NoTls)
            .await
            .map_err(|error| {
                Failure::User(format!(
                    "could not connect to {server}: {}",
                    describe(&error)
                ))
            })?;
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(tokio_postgres::AsyncMessage::Notice(notice)) => {
                    eprintln!("{}", describe_db(&notice))
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
    Ok(client)
}

/// Runs a script on the server at `server` and drops its output.
pub(super) async fn run_script(server: SocketAddr, text: &str) -> Result<(), Failure> {
    let client = connect(server).await?;
    for text in statements(text) {
        run(&client, &text).await?;
    }
    Ok(())
}

async fn run(client: &Client, text: &str) -> Result<String, Failure> {
    let messages = client
        .simple_query(text)
        .await
        .map_err(|error| Failure::User(describe(&error)))?;
    Ok(render(&messages))
}

async fn prompt(client: &Client) -> Result<(), Failure> {
    let internal = |error: rustyline::error::ReadlineError| Failure::Internal(error.to_string());
    let mut editor = rustyline::DefaultEditor::new().map_err(internal)?;
    let mut pending = String::new();
    loop {
        let line = tokio::task::block_in_place(|| {
            editor.readline(if pending.is_empty() {
                "thalweg=> "
            } else {
                "thalweg-> "
            })
        });
        match line {
            Ok(line) if pending.is_empty() && matches!(line.trim(), "\\q" | "quit" | "exit") => {
                return Ok(());
            }
            Ok(line) => {
                pending.push_str(&line);
                pending.push('\n');
            }
            Err(rustyline::error::ReadlineError::Interrupted) => pending.clear(),
            Err(rustyline::error::ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(internal(error)),
        }
        if pending.trim_end().ends_with(';') {
            let _full = editor.add_history_entry(pending.trim());
            for text in statements(&pending) {
                match run(client, &text).await {
                    Ok(text) => print!("{text}"),
                    Err(failure) => {
                        eprintln!("{failure}");
                        break;
                    }
                }
            }
            pending.clear();
        }
    }
}

pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => describe_db(error),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn describe_db(error: &DbError) -> String {
    let mut text = format!("{}:  {}", error.severity(), error.message());
    if error.severity() != "NOTICE" {
        let _infallible = write!(text, " (SQLSTATE {})", error.code().code());
    }
    for (label, line) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
        if let Some(line) = line {
            let _infallible = write!(text, "\n{label}:  {line}");
        }
    }
    text
}

/// Prints each result set as an aligned table followed by its row count, and each command as its tag.
fn render(messages: &[SimpleQueryMessage]) -> String {
    let mut text = String::new();
    let mut table: Option<(Vec<String>, Vec<Vec<String>>)> = None;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table = Some((
                    columns
                        .iter()
                        .map(|column| column.name().to_owned())
                        .collect(),
                    Vec::new(),
                ));
            }
            SimpleQueryMessage::Row(row) => {
                if let Some((_, rows)) = &mut table {
                    rows.push(
                        (0..row.len())
                            .map(|i| row.get(i).unwrap_or("").to_owned())
                            .collect(),
                    );
                }
            }
            SimpleQueryMessage::CommandComplete(count) => match table.take() {
                Some((names, rows)) => render_table(&mut text, &names, &rows),
                None => {
                    let _infallible = writeln!(text, "ok ({count})");
                }
            },
            _ => {}
        }
    }
    text
}

fn render_table(text: &mut String, names: &[String], rows: &[Vec<String>]) {
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            rows.iter()
                .filter_map(|row| row.get(i))
                .chain([name])
                .map(|v| v.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |text: &mut String, values: &[String]| {
        let cells: Vec<String> = values
            .iter()
            .zip(&widths)
            .map(|(value, width)| format!(" {value:<width$} "))
            .collect();
        let _infallible = writeln!(text, "{}", cells.join("|").trim_end());
    };
    line(text, names);
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let _infallible = writeln!(text, "{}", rule.join("+"));
    for row in rows {
        line(text, row);
    }
    let _infallible = writeln!(
        text,
        "({} row{})\n",
        rows.len(),
        if rows.len() == 1 { "" } else { "s" }
    );
}

#[cfg(test)]
mod tests {
    use super::render_table;

    #[test]
    fn tables_are_aligned_by_the_widest_value() {
        let mut text = String::new();
        let rows = vec![
            vec!["1".to_owned(), "start".to_owned()],
            vec!["12".to_owned(), "".to_owned()],
        ];
        render_table(&mut text, &["id".to_owned(), "action".to_owned()], &rows);
        assert_eq!(
            text,
            " id | action\n----+--------\n 1  | start\n 12 |\n(2 rows)\n\n"
        );
    }
}
