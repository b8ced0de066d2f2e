//! Finds the kind of a key in well under a microsecond: a trie over the fixed beginnings of the patterns.
//!
//! A walk along the key ends at the deepest known beginning; the patterns that can still match there are few, and are
//! tried in the order of the file.

use std::sync::Arc;

use crate::model::catalog::kind::Kind;

/// The trie.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    next: Vec<(u8, usize)>,
    /// Positions of the kinds whose pattern begins as the path to here does or shorter, lowest first.
    candidates: Vec<usize>,
}

impl Index {
    /// The trie of `kinds`.
    pub(super) fn new(kinds: &[Arc<Kind>]) -> Self {
        let mut index = Self { nodes: vec![Node::default()] };
        for kind in kinds {
            for prefix in kind.pattern.prefixes() {
                index.insert(&prefix, kind.index);
            }
        }
        index.hand_down(0, &[]);
        index
    }

    /// The positions of the kinds that may match `key`, lowest first.
    pub(super) fn candidates(&self, key: &[u8]) -> &[usize] {
        let mut deepest = self.nodes.first();
        for byte in key {
            let below = deepest.and_then(|node| node.next.iter().find(|(label, _)| label == byte));
            let Some((_, at)) = below else { break };
            deepest = self.nodes.get(*at);
        }
        deepest.map_or(&[], |node| &node.candidates)
    }

    fn insert(&mut self, prefix: &[u8], kind: usize) {
        let mut at = 0;
        for byte in prefix {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = match node.next.iter().find(|(label, _)| label == byte) {
                Some((_, below)) => *below,
                None => {
                    node.next.push((*byte, fresh));
                    self.nodes.push(Node::default());
                    fresh
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.candidates.push(kind);
        }
    }

    fn hand_down(&mut self, at: usize, inherited: &[usize]) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.candidates.extend_from_slice(inherited);
        node.candidates.sort_unstable();
        node.candidates.dedup();
        let (candidates, below) = (node.candidates.clone(), node.next.clone());
        for (_, next) in below {
            self.hand_down(next, &candidates);
        }
    }
}
