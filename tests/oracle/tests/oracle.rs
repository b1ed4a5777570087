//! Runs random programs; `ORACLE_SEED` and `ORACLE_PROGRAMS` choose which and how many, `ORACLE_SHOW` prints them.
//!
//! Invariant: with no variable set the change gate's quota runs, from a fixed seed, split over two threads.

use std::path::PathBuf;

use thalweg::testing::{STACK_BYTES, scratch_dir};
use thalweg_test_oracle::{Program, Step, Totals, Verdict, run_program, run_seeds};

/// Programs of the change gate.
const QUOTA: u64 = 500;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn on_own_runtime<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> std::thread::JoinHandle<Result<T, String>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let task = runtime.spawn(work);
        runtime.block_on(task).map_err(|error| error.to_string())
    })
}

#[test]
fn every_view_equals_both_oracles() {
    let first = variable("ORACLE_SEED", 1);
    let count = variable("ORACLE_PROGRAMS", QUOTA);
    println!("oracle: seeds {first}..{}", first + count);
    if std::env::var_os("ORACLE_SHOW").is_some() {
        for seed in first..first + count {
            println!("-- seed {seed}\n{}", Program::generate(seed).script());
        }
    }
    let scratch = scratch_dir();
    let half = count / 2;
    let runs = [(first, half), (first + half, count - half)].map(|(first, count)| {
        let scratch = scratch.clone();
        on_own_runtime(async move { run_seeds(first, count, &scratch).await })
    });
    let mut totals = Totals::default();
    for run in runs {
        match run.join() {
            Ok(Ok(Ok(part))) => {
                totals.counted += part.counted;
                totals.refused += part.refused;
                totals.disagreed += part.disagreed;
                totals.comparisons += part.comparisons;
            }
            Ok(Ok(Err(difference))) => panic!("{difference}"),
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => panic!("a run panicked; its seed is the last one printed"),
        }
    }
    let _kept = std::fs::remove_dir_all(&scratch);
    let Totals {
        counted,
        refused,
        disagreed,
        comparisons,
    } = totals;
    println!(
        "oracle: {counted} programs counted, {refused} refused by SQLite, {disagreed} with judges that disagree, {comparisons} comparisons"
    );
    // A generator that drifts away from what both judges can say would pass by testing nothing.
    assert!(
        refused * 10 <= count,
        "SQLite refused {refused} of {count} programs"
    );
    assert!(
        disagreed * 50 <= count.max(50),
        "the judges disagree about {disagreed} of {count} programs"
    );
}

/// Programs that once found a fault, one file each, under the seed that made them then.
#[test]
fn programs_that_found_faults_stay_right() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kept");
    let mut kept: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of kept programs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    kept.sort();
    assert!(kept.len() >= 6, "{} kept programs", kept.len());
    for path in kept {
        let seed = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok())
            .unwrap_or_else(|| panic!("{} is not named after a seed", path.display()));
        let script = std::fs::read_to_string(&path).expect("a kept program");
        let program = Program::parse(&script, seed);
        let scratch = scratch_dir();
        let data_dir = scratch.join("program");
        let run = on_own_runtime(async move { run_program(&program, &data_dir).await });
        let outcome = run.join().expect("the run ends");
        let _kept = std::fs::remove_dir_all(&scratch);
        assert!(
            matches!(outcome, Ok(Ok(Verdict::Agreed(_)))),
            "{}: {outcome:?}",
            path.display()
        );
    }
}

#[test]
fn a_script_reads_back_as_its_program() {
    for seed in 0..50 {
        let program = Program::generate(seed);
        let read = Program::parse(&program.script(), seed);
        assert_eq!(program.steps, read.steps, "seed {seed}");
        let names = |p: &Program| p.tables.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&program), names(&read), "seed {seed}");
    }
}

#[test]
fn programs_are_functions_of_their_seed_and_cover_the_steps() {
    let mut views = 0;
    let mut on_views = 0;
    for seed in 0..50 {
        let program = Program::generate(seed);
        assert_eq!(program, Program::generate(seed));
        assert!(
            program.steps.contains(&Step::Restart),
            "seed {seed} never restarts"
        );
        assert!(
            program
                .steps
                .iter()
                .filter(|step| **step == Step::Check)
                .count()
                >= 3,
            "seed {seed} checks too rarely"
        );
        for step in &program.steps {
            if let Step::View { query, .. } = step {
                views += 1;
                on_views += usize::from(query.contains(" w"));
            }
        }
    }
    assert!(
        views >= 100 && on_views >= 20,
        "{views} views, {on_views} on views"
    );
}
