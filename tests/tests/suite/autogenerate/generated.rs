//! Pairs of schemas that a generator makes.

use anyhow::anyhow;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use suite::count;

use super::{Bench, pairs};

#[test]
fn what_is_written_between_generated_schemas_leads_there_and_back() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let bench = runtime.block_on(Bench::start())?;
    let round_trip = |schema: &str, before: &str, after: &str, renames: &[String]| {
        let ran = runtime.block_on(pairs::round_trip(&bench, schema, before, after, renames));
        ran.map_err(|error| TestCaseError::fail(format!("{renames:?} {error:#}")))
    };
    let plain = runner(count(24, 200))?.run(&pairs::pair(), |(before, after)| {
        round_trip("the Shop", &before, &after, &[])
    });
    let renamed = runner(count(8, 60))?.run(&pairs::renamed_pair(), |(before, after, renames)| {
        round_trip("renamed", &before, &after, &renames)
    });
    runtime.block_on(bench.stop())?;
    plain.map_err(|error| anyhow!("{error}"))?;
    renamed.map_err(|error| anyhow!("{error}"))
}

fn runner(cases: usize) -> anyhow::Result<TestRunner> {
    Ok(TestRunner::new(Config {
        cases: u32::try_from(cases)?,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    }))
}
