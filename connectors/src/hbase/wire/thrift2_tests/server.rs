//! What generated code takes from `thrift::server`, a part of the crate that we build without: servers of its own.
//!
//! Invariant: a request that cannot be read is an error of the test, and never answered.

use thrift::protocol::{TInputProtocol, TMessageIdentifier, TOutputProtocol};

/// Answers one request.
pub(in crate::hbase::wire) trait TProcessor {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()>;
}

pub(in crate::hbase::wire) fn handle_process_result(
    _head: &TMessageIdentifier,
    result: thrift::Result<()>,
    _output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    result
}
