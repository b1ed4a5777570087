//! Which functions exist, by name.
//!
//! Invariant: immutable once built; a name is a scalar, an aggregate or a window function, looked up in lower case.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

use crate::context::Functions;
use crate::error::PlanError;

/// DataFusion's functions, ours and the server's.
#[derive(Debug)]
pub(crate) struct Registry {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
    server: BTreeSet<String>,
}

impl Registry {
    pub(crate) fn new(extra: &Functions) -> Registry {
        let state: SessionState = SessionStateBuilder::new().with_default_features().build();
        let mut registry = Registry {
            scalar: HashMap::new(),
            aggregate: HashMap::new(),
            window: HashMap::new(),
            server: BTreeSet::new(),
        };
        for name in state.udfs() {
            if let Ok(udf) = state.udf(&name) {
                registry.scalar.insert(name.to_lowercase(), udf);
            }
        }
        for name in state.udafs() {
            if let Ok(udaf) = state.udaf(&name) {
                registry.aggregate.insert(name.to_lowercase(), udaf);
            }
        }
        for name in state.udwfs() {
            if let Ok(udwf) = state.udwf(&name) {
                registry.window.insert(name.to_lowercase(), udwf);
            }
        }
        for (name, udaf) in crate::functions::aggregate::aggregates(&registry.aggregate) {
            registry.aggregate.insert(name, udaf);
        }
        for udf in &extra.scalar {
            for name in std::iter::once(udf.name()).chain(udf.aliases().iter().map(String::as_str))
            {
                registry.server.insert(name.to_lowercase());
                registry.scalar.insert(name.to_lowercase(), Arc::clone(udf));
            }
        }
        for udaf in &extra.aggregate {
            registry
                .aggregate
                .insert(udaf.name().to_lowercase(), Arc::clone(udaf));
        }
        registry
    }

    pub(crate) fn is_aggregate(&self, name: &str) -> bool {
        self.aggregate.contains_key(name)
    }

    pub(crate) fn is_window(&self, name: &str) -> bool {
        self.window.contains_key(name)
    }

    pub(crate) fn is_server(&self, name: &str) -> bool {
        self.server.contains(name)
    }

    pub(crate) fn scalar(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalar.get(name)
    }

    pub(crate) fn aggregate(&self, name: &str) -> Option<&Arc<AggregateUDF>> {
        self.aggregate.get(name)
    }

    pub(crate) fn window(&self, name: &str) -> Option<&Arc<WindowUDF>> {
        self.window.get(name)
    }

    pub(crate) fn scalar_names(&self) -> Vec<String> {
        self.scalar.keys().cloned().collect()
    }

    pub(crate) fn aggregate_names(&self) -> Vec<String> {
        self.aggregate.keys().cloned().collect()
    }

    pub(crate) fn window_names(&self) -> Vec<String> {
        self.window.keys().cloned().collect()
    }

    /// `function name(integer, text) does not exist`, with the nearest name when the name itself is unknown.
    pub(crate) fn unknown_function(&self, name: &str, types: Option<String>) -> PlanError {
        let message = format!(
            "function {name}({}) does not exist",
            types.unwrap_or_default()
        );
        let mut names: Vec<&str> = self
            .scalar
            .keys()
            .chain(self.aggregate.keys())
            .chain(self.window.keys())
            .map(String::as_str)
            .collect();
        names.extend(crate::functions::OWN_NAMES);
        names.sort_unstable();
        names.dedup();
        if names.binary_search(&name).is_ok() {
            return PlanError::hint(
                "42883",
                message,
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            );
        }
        match crate::names::nearest(name, &names) {
            Some(near) => PlanError::hint(
                "42883",
                message,
                format!("Perhaps you meant the function \"{near}\"."),
            ),
            None => PlanError::hint(
                "42883",
                message,
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ),
        }
    }
}
