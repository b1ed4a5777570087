//! What is measured: inputs and queries as SQL.
//!
//! Invariant: a query's text is the same for its check, its batch answer and its measurement.

/// Where the events of a case come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Kept by views before the clock starts: generators are not what is measured.
    Memory,
    /// JSON lines; reading and decoding them is measured.
    File,
    /// The same as records of a Kafka topic; receiving them is measured too, the broker is not.
    Kafka,
    /// Generated at a pace: it is measured how late rows show.
    Live,
    /// Nothing.
    None,
}

/// What is done with a query's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Counted and dropped.
    Blackhole,
    /// Kept as a view.
    View,
}

/// One measurement.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) input: Input,
    pub(super) output: Output,
    /// `memory_limit`, when the case is about it; the check of the answer has as much as it needs.
    pub(super) memory_bytes: Option<usize>,
    /// Events of all sources together; looks at the view of a live one.
    pub(super) events: u64,
    /// Statements that create the sources, with `{events}`, `{half}`, `{file}`, `{brokers}` and `{topic}` to be filled in.
    pub(super) sources: &'static str,
    /// Names of what the query reads.
    pub(super) names: &'static [&'static str],
    pub(super) query: &'static str,
    /// Aggregates over the query's result that tell it apart from others.
    pub(super) fingerprint: &'static str,
}

const NUMBERS: &str = "CREATE SOURCE numbers (k bigint, v bigint) WITH (connector = 'datagen', rows = {events}, seed = 1, \
    fields.k.kind = 'random', fields.k.start = 1, fields.k.end = 100000, \
    fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 999); \
    CREATE MATERIALIZED VIEW r AS SELECT * FROM numbers;";

const MANY: &str = "CREATE SOURCE numbers (k bigint, v bigint) WITH (connector = 'datagen', rows = {events}, seed = 1, \
    fields.k.kind = 'random', fields.k.start = 1, fields.k.end = 4000000, \
    fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 999);";

/// Many groups under a result of one row, so that what is remembered is all there is.
const MANY_GROUPS: &str = "SELECT count(*) AS g, sum(n) AS n, sum(total) AS total FROM \
    (SELECT k, count(*) AS n, sum(v) AS total FROM numbers GROUP BY k) q";

/// The same aggregation with all the memory it wants or with a limit.
const fn many_groups(name: &'static str, memory_bytes: Option<usize>) -> Case {
    Case {
        name,
        input: Input::Memory,
        output: Output::View,
        memory_bytes,
        events: 10_000_000,
        sources: MANY,
        names: &[],
        query: MANY_GROUPS,
        fingerprint: "sum(g), sum(n), sum(total)",
    }
}

const PAIRS: &str = "CREATE SOURCE left_numbers (k bigint, a bigint) WITH (connector = 'datagen', rows = {half}, seed = 1, \
    fields.k.kind = 'sequence', fields.k.start = 1, \
    fields.a.kind = 'random', fields.a.start = 0, fields.a.end = 999); \
    CREATE SOURCE right_numbers (k bigint, b bigint) WITH (connector = 'datagen', rows = {half}, seed = 2, \
    fields.k.kind = 'sequence', fields.k.start = 1, \
    fields.b.kind = 'random', fields.b.start = 0, fields.b.end = 999); \
    CREATE MATERIALIZED VIEW l AS SELECT * FROM left_numbers; \
    CREATE MATERIALIZED VIEW r AS SELECT * FROM right_numbers;";

/// The columns of Nexmark events in one topic.
macro_rules! nexmark {
    ($with:literal) => {
        concat!(
            "CREATE SOURCE nexmark (event_type int, \
    person STRUCT<id bigint, name text, email_address text, credit_card text, city text, state text, date_time timestamp, extra text>, \
    auction STRUCT<id bigint, item_name text, description text, initial_bid bigint, reserve bigint, date_time timestamp, expires timestamp, seller bigint, category bigint, extra text>, \
    bid STRUCT<auction bigint, bidder bigint, price bigint, channel text, url text, date_time timestamp, extra text>) WITH (",
            $with,
            ") FORMAT PLAIN ENCODE JSON;"
        )
    };
}

const NEXMARK: &str = nexmark!("connector = 'file', path = '{file}'");

const NEXMARK_KAFKA: &str =
    nexmark!("connector = 'kafka', properties.bootstrap.server = '{brokers}', topic = '{topic}'");

const Q0: &str = "SELECT (bid).auction, (bid).bidder, (bid).price, (bid).date_time, (bid).extra FROM nexmark WHERE event_type = 2";
const Q1: &str = "SELECT (bid).auction, (bid).bidder, 0.908 * (bid).price AS price, (bid).date_time, (bid).extra FROM nexmark WHERE event_type = 2";
const Q2: &str = "SELECT (bid).auction, (bid).price FROM nexmark WHERE event_type = 2 AND (bid).auction % 123 = 0";
const COUNT_BIDS: &str = "SELECT (bid).auction AS auction, count(*) AS n FROM nexmark WHERE event_type = 2 GROUP BY (bid).auction";
const BIDS: &str = "count(*), sum(auction), sum(bidder), sum(price), min(date_time), max(date_time), sum(length(extra))";

/// A query over Nexmark events.
const fn nexmark_case(
    name: &'static str,
    input: Input,
    query: &'static str,
    output: Output,
    fingerprint: &'static str,
) -> Case {
    Case {
        name,
        input,
        output,
        memory_bytes: None,
        events: 1_500_000,
        sources: match input {
            Input::Kafka => NEXMARK_KAFKA,
            _ => NEXMARK,
        },
        names: &["nexmark"],
        query,
        fingerprint,
    }
}

pub(super) const CASES: [Case; 15] = [
    Case {
        name: "filter_project",
        input: Input::Memory,
        output: Output::Blackhole,
        memory_bytes: None,
        events: 20_000_000,
        sources: NUMBERS,
        names: &["r"],
        query: "SELECT k, v * 2 AS w FROM r WHERE v < 500",
        fingerprint: "count(*), sum(k), sum(w)",
    },
    Case {
        name: "count_sum",
        input: Input::Memory,
        output: Output::View,
        memory_bytes: None,
        events: 10_000_000,
        sources: NUMBERS,
        names: &["r"],
        query: "SELECT k, count(*) AS n, sum(v) AS total FROM r GROUP BY k",
        fingerprint: "count(*), sum(k), sum(n), sum(total), sum(k * n)",
    },
    many_groups("fits", None),
    // Room for about a tenth of what the same groups take in memory.
    many_groups("spilled", Some(50 << 20)),
    Case {
        name: "join",
        input: Input::Memory,
        output: Output::View,
        memory_bytes: None,
        events: 2_000_000,
        sources: PAIRS,
        names: &["l", "r"],
        query: "SELECT l.k, l.a, r.b FROM l JOIN r ON l.k = r.k",
        fingerprint: "count(*), sum(k), sum(a), sum(b), sum(a * b)",
    },
    nexmark_case("q0", Input::File, Q0, Output::Blackhole, BIDS),
    nexmark_case("q1", Input::File, Q1, Output::Blackhole, BIDS),
    nexmark_case(
        "q2",
        Input::File,
        Q2,
        Output::Blackhole,
        "count(*), sum(auction), sum(price)",
    ),
    nexmark_case(
        "count_bids",
        Input::File,
        COUNT_BIDS,
        Output::View,
        "count(*), sum(auction), sum(n), sum(auction * n)",
    ),
    nexmark_case("q0_kafka", Input::Kafka, Q0, Output::Blackhole, BIDS),
    nexmark_case("q1_kafka", Input::Kafka, Q1, Output::Blackhole, BIDS),
    nexmark_case(
        "q2_kafka",
        Input::Kafka,
        Q2,
        Output::Blackhole,
        "count(*), sum(auction), sum(price)",
    ),
    nexmark_case(
        "count_bids_kafka",
        Input::Kafka,
        COUNT_BIDS,
        Output::View,
        "count(*), sum(auction), sum(n), sum(auction * n)",
    ),
    Case {
        name: "freshness",
        input: Input::Live,
        output: Output::View,
        memory_bytes: None,
        events: 5_000,
        sources: "CREATE SOURCE e (k bigint, at timestamptz) WITH (connector = 'datagen', rows_per_second = 100000, seed = 1, \
            fields.k.kind = 'random', fields.k.start = 1, fields.k.end = 1000, fields.at.kind = 'timestamp');",
        names: &["e"],
        query: "SELECT max(at) AS newest, count(*) AS n FROM e",
        fingerprint: "count(*)",
    },
    Case {
        name: "ddl",
        input: Input::None,
        output: Output::View,
        memory_bytes: None,
        events: 20,
        sources: "CREATE TABLE r (k bigint, v bigint);",
        names: &["r"],
        query: "SELECT k, count(*) AS n, sum(v) AS total FROM r GROUP BY k",
        fingerprint: "count(*)",
    },
];
