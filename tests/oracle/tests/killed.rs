//! Runs random programs on servers that die in the middle: a process of its own does what comes before the restart and aborts, the
//! next server goes on over its data dir, and both judges look at every view. `ORACLE_SEED` and `ORACLE_KILLED` choose which programs
//! and how many.
//!
//! Invariant: a process that was told to run the first part of a program does nothing else, and never ends in order.

use std::path::Path;
use std::process::{Command, ExitCode};

use thalweg::testing::{STACK_BYTES, scratch_dir};
use thalweg_test_oracle::{Program, Verdict, live_and_die, run_killed};

/// Programs of the change gate.
const QUOTA: u64 = 100;

/// Names the data dir and the seed to the process that dies.
const LIFE: [&str; 2] = ["ORACLE_LIFE", "ORACLE_LIFE_SEED"];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .expect("a runtime");
    if let (Some(data_dir), Some(seed)) = (std::env::var_os(LIFE[0]), variable(LIFE[1])) {
        let program = Program::generate(seed);
        let life = runtime.spawn(async move { live_and_die(&program, Path::new(&data_dir)).await });
        eprintln!("{:?}", runtime.block_on(life));
        return ExitCode::FAILURE;
    }
    let (first, count) = (
        variable("ORACLE_SEED").unwrap_or(1),
        variable("ORACLE_KILLED").unwrap_or(QUOTA),
    );
    println!("oracle: kills in programs {first}..{}", first + count);
    let found = runtime.block_on(runtime.spawn(run_all(first, count)));
    let failed = match found {
        Ok(Ok(counted)) if counted * 10 >= count * 9 => None,
        Ok(Ok(counted)) => Some(format!("only {counted} of {count} programs counted")),
        Ok(Err(what)) => Some(what),
        Err(panic) => Some(panic.to_string()),
    };
    if let Some(what) = &failed {
        eprintln!("{what}");
    }
    let (passed, failures) = (u8::from(failed.is_none()), u8::from(failed.is_some()));
    let word = ["FAILED", "ok"][usize::from(passed)];
    println!("test a_kill_in_a_program_changes_no_answer ... {word}");
    println!(
        "\ntest result: {word}. {passed} passed; {failures} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::from(failures)
}

/// How many programs both judges agreed about; or the first difference, with what replays it.
async fn run_all(first: u64, count: u64) -> Result<u64, String> {
    let scratch = scratch_dir();
    let mut counted = 0;
    for seed in first..first + count {
        let program = Program::generate(seed);
        let data_dir = scratch.join(format!("killed-{seed}"));
        let found = run_killed(&program, &data_dir, || first_life(seed, &data_dir)).await;
        let _kept = std::fs::remove_dir_all(&data_dir);
        match found {
            Ok(Verdict::Agreed(_)) => counted += 1,
            Ok(Verdict::Refused | Verdict::Disagreed) => {}
            Err(difference) => {
                return Err(format!(
                    "{difference}\n{}\nreplay: ORACLE_SEED={seed} ORACLE_KILLED=1 cargo test -p thalweg-test-oracle --test killed",
                    program.script()
                ));
            }
        }
    }
    let _kept = std::fs::remove_dir_all(&scratch);
    Ok(counted)
}

/// Has another process run the first part of a program and abort.
fn first_life(seed: u64, data_dir: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let ended = Command::new(program)
        .env(LIFE[0], data_dir)
        .env(LIFE[1], seed.to_string())
        .output()
        .map_err(|error| error.to_string())?;
    match ended.status.code() {
        // A signal ended it: the abort.
        None => Ok(()),
        Some(_) => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
    }
}
