//! Signatures that have held: what one station of a process has checked, the others need not.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::keys::{PublicKey, SIGNATURE_BYTES, TRAIN_STATEMENT_BYTES};

/// Verdicts kept: the trains that stations of one process are about to ask for, one after the other.
const KEPT_MAX: usize = 1_024;

/// Signatures that have held, for all stations of a process that share it. What it says depends on nothing but what it is
/// asked, so that whoever shares it does the same with it and without.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(Option<Arc<Mutex<Kept>>>);

#[derive(Debug, Default)]
struct Kept {
    held: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Verdicts {
    /// For many stations in one process; [`Default`] is for one alone, and keeps nothing.
    pub fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether `key` has signed the train.
    pub(super) fn train(
        &self,
        key: &PublicKey,
        statement: &[u8; TRAIN_STATEMENT_BYTES],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        let check = || key.has_signed_train(statement, signature);
        let Some(kept) = &self.0 else { return check() };
        let name: [u8; 32] = Sha256::new()
            .chain_update(key.to_bytes())
            .chain_update(signature)
            .chain_update(statement)
            .finalize()
            .into();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.held.contains(&name) {
            return true;
        }
        let holds = check();
        if holds {
            if kept.order.len() >= KEPT_MAX
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.held.remove(&oldest);
            }
            kept.held.insert(name);
            kept.order.push_back(name);
        }
        holds
    }
}
