//! What is known of a streaming plan's output, with what is known of the views it reads.
//!
//! Invariant: nothing is claimed that the operators alone do not prove; an operator that is not treated here keeps its claims.

use thalweg_catalog::Oid;

use crate::lower::{merged, projected_keys};
use crate::stream::{Properties, StreamNode, StreamPlan};

impl StreamPlan {
    /// Carries what `known` says of relations, which a scan alone does not tell, up to the result.
    pub fn sharpen(&mut self, known: &mut dyn FnMut(Oid) -> Option<Properties>) {
        sharpen(&mut self.root, known);
    }
}

fn sharpen(node: &mut StreamNode, known: &mut dyn FnMut(Oid) -> Option<Properties>) {
    match node {
        StreamNode::Scan {
            oid, properties, ..
        } => {
            if let Some(found) = known(*oid) {
                properties.change = found.change;
                properties.keys = found.keys;
            }
        }
        StreamNode::Filter {
            input, properties, ..
        } => {
            sharpen(input, known);
            properties.change = input.properties().change;
            properties.keys.clone_from(&input.properties().keys);
        }
        StreamNode::Project {
            input,
            exprs,
            properties,
            ..
        } => {
            sharpen(input, known);
            let below = input.properties();
            properties.change = below.change;
            properties.keys = projected_keys(&below.keys, exprs, input.schema());
        }
        StreamNode::Lookup {
            input, properties, ..
        } => {
            sharpen(input, known);
            crate::lower::lookup_properties(input.properties(), properties);
        }
        StreamNode::Union {
            inputs, properties, ..
        } => {
            inputs.iter_mut().for_each(|input| sharpen(input, known));
            properties.change = merged(inputs).change;
        }
        StreamNode::Unnest {
            input, properties, ..
        } => {
            sharpen(input, known);
            properties.change = input.properties().change;
        }
        // The result of anything else may be taken back whatever its inputs do, and its keys are its own.
        _ => {}
    }
}
