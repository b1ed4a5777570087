//! Runs random programs; `ORACLE_SEED` and `ORACLE_PROGRAMS` choose which and how many.
//!
//! Invariant: with no variable set the change gate's quota runs, from a fixed seed, split over two threads.

use std::path::PathBuf;

use thalweg::testing::{STACK_BYTES, scratch_dir};
use thalweg_test_oracle::{Program, Step, Totals, run_seeds};

/// Programs of the change gate.
const QUOTA: u64 = 500;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn run_on_own_runtime(
    first: u64,
    count: u64,
    scratch: PathBuf,
) -> std::thread::JoinHandle<Result<Totals, String>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let task = runtime.spawn(async move { run_seeds(first, count, &scratch).await });
        runtime
            .block_on(task)
            .map_err(|error| error.to_string())?
            .map_err(|difference| difference.to_string())
    })
}

#[test]
fn every_view_equals_both_oracles() {
    let first = variable("ORACLE_SEED", 1);
    let count = variable("ORACLE_PROGRAMS", QUOTA);
    println!("oracle: seeds {first}..{}", first + count);
    let scratch = scratch_dir();
    let half = count / 2;
    let runs = [
        run_on_own_runtime(first, half, scratch.clone()),
        run_on_own_runtime(first + half, count - half, scratch.clone()),
    ];
    let mut totals = Totals::default();
    for run in runs {
        match run.join() {
            Ok(Ok(part)) => {
                totals.counted += part.counted;
                totals.refused += part.refused;
                totals.disagreed += part.disagreed;
                totals.comparisons += part.comparisons;
            }
            Ok(Err(difference)) => panic!("{difference}"),
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

/// Programs that once found a fault: a panic in a kernel on NULLs of a foreign type (283), a distinct count beside a sum (347,
/// 868), an outer join that lost rows under a negated condition (422).
#[test]
fn seeds_that_found_faults_stay_right() {
    for seed in [283, 347, 422, 868] {
        let scratch = scratch_dir();
        let run = run_on_own_runtime(seed, 1, scratch.clone());
        let outcome = run.join().expect("the run ends");
        let _kept = std::fs::remove_dir_all(&scratch);
        assert_eq!(outcome.map(|totals| totals.counted), Ok(1), "seed {seed}");
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
