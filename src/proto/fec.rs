//! Parity over blocks of segments: systematic Reed-Solomon, so that any n shards mend any n losses, different ones at
//! different receivers.
//!
//! A shard is a segment as it stands in a datagram (length, flags, total, payload), filled up with zeros to the longest of
//! its block (R-FEC-2). Both counts are declared as [`BLOCK_LEN`], whatever the block holds, because a parity shard's bytes
//! depend on them.

use bytes::Bytes;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::wire::{Place, Segment};

use super::tuning::BLOCK_SHARDS;

/// All parity shards of a block.
#[derive(Debug)]
pub(super) struct Shards {
    bytes: Vec<u8>,
    shard_bytes: usize,
}

impl Shards {
    /// Computes them; at most [`BLOCK_LEN`](crate::wire::BLOCK_LEN) segments, at least one.
    pub(super) fn of<'a>(segments: impl Iterator<Item = Segment<'a>> + Clone) -> Self {
        let longest = segments.clone().map(|segment| segment.wire_bytes()).max();
        let shard_bytes = longest.unwrap_or(2).next_multiple_of(2);
        let mut encoder = ReedSolomonEncoder::new(BLOCK_SHARDS, BLOCK_SHARDS, shard_bytes)
            .expect("64 and 64 even shards are supported");
        let mut shard = Vec::with_capacity(shard_bytes);
        let mut count = 0;
        for segment in segments {
            shard.clear();
            segment.write_to(&mut shard);
            shard.resize(shard_bytes, 0);
            encoder
                .add_original_shard(&shard)
                .expect("no more than 64 of the length declared");
            count += 1;
        }
        shard.clear();
        shard.resize(shard_bytes, 0);
        for _ in count..BLOCK_SHARDS {
            encoder
                .add_original_shard(&shard)
                .expect("no more than 64 of the length declared");
        }
        let result = encoder.encode().expect("all 64 were added");
        let bytes = result.recovery_iter().flatten().copied().collect();
        Self { bytes, shard_bytes }
    }

    /// The `index`-th.
    pub(super) fn get(&self, index: u8) -> &[u8] {
        let start = usize::from(index) * self.shard_bytes;
        &self.bytes[start..start + self.shard_bytes]
    }
}

/// Mends a block of `len` segments from those that are here and as many parity shards as are missing, all of one length;
/// `None` when they do not fit together, which no source of ours brings about.
pub(super) fn mend<'a>(
    len: u8,
    here: impl Fn(u8) -> Option<Segment<'a>>,
    parity: &[(u8, Bytes)],
) -> Option<Vec<(u8, Place, Bytes)>> {
    let shard_bytes = parity.first()?.1.len();
    let mut decoder = ReedSolomonDecoder::new(BLOCK_SHARDS, BLOCK_SHARDS, shard_bytes).ok()?;
    let mut shard = Vec::with_capacity(shard_bytes);
    for offset in 0..u8::try_from(BLOCK_SHARDS).unwrap_or(u8::MAX) {
        shard.clear();
        if offset < len {
            let Some(segment) = here(offset) else {
                continue;
            };
            segment.write_to(&mut shard);
        }
        if shard.len() > shard_bytes {
            return None;
        }
        shard.resize(shard_bytes, 0);
        decoder
            .add_original_shard(usize::from(offset), &shard)
            .ok()?;
    }
    for (index, shard) in parity {
        decoder
            .add_recovery_shard(usize::from(*index), shard)
            .ok()?;
    }
    let result = decoder.decode().ok()?;
    let mut mended = Vec::new();
    for (offset, shard) in result.restored_original_iter() {
        let segment = Segment::from_shard(shard).ok()?;
        let offset = u8::try_from(offset).ok()?;
        mended.push((
            offset,
            segment.place,
            Bytes::copy_from_slice(segment.payload),
        ));
    }
    Some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn segments(rng: &mut Rng, len: u8) -> Vec<(Place, Vec<u8>)> {
        let mut segment = |i: u8| {
            let bytes = (0..rng.below(300)).map(|_| i).collect();
            let place = match rng.below(3) {
                0 => Place::Whole,
                1 => Place::First { total: 9_999 },
                _ => Place::Middle,
            };
            (place, bytes)
        };
        (0..len).map(&mut segment).collect()
    }

    fn view((place, payload): &(Place, Vec<u8>)) -> Segment<'_> {
        Segment {
            place: *place,
            payload,
        }
    }

    #[test]
    fn any_n_shards_mend_any_n_losses() {
        let mut rng = Rng::new(5);
        for round in 0..60 {
            let len = u8::try_from(1 + rng.below(64)).unwrap();
            let segments = segments(&mut rng, len);
            let shards = Shards::of(segments.iter().map(view));
            let lost: Vec<_> = (0..len).filter(|_| rng.chance(0.3)).collect();
            let mut indexes: Vec<u8> = (0..64).collect();
            while indexes.len() > lost.len() {
                let at = usize::try_from(rng.below(indexes.len() as u64)).unwrap();
                indexes.remove(at);
            }
            let parity: Vec<_> = indexes
                .iter()
                .map(|&i| (i, Bytes::copy_from_slice(shards.get(i))))
                .collect();
            if lost.is_empty() {
                continue;
            }
            let here = |i: u8| {
                let is_here = !lost.contains(&i);
                is_here.then(|| view(&segments[usize::from(i)]))
            };
            let mended = mend(len, here, &parity).unwrap();
            let got: Vec<_> = mended.iter().map(|(i, ..)| *i).collect();
            assert_eq!(got, lost, "round {round}");
            for (i, place, payload) in mended {
                let (expected, bytes) = &segments[usize::from(i)];
                assert_eq!((&place, &payload[..]), (expected, &bytes[..]));
            }
        }
    }

    #[test]
    fn shards_that_do_not_fit_mend_nothing() {
        let long = (Place::Whole, vec![1; 100]);
        let here = |i: u8| (i == 0).then(|| view(&long));
        let parity = [(0, Bytes::from_static(b"xx"))];
        assert!(
            mend(2, here, &parity).is_none(),
            "shorter than what is here"
        );
        assert!(
            mend(3, here, &[(0, Bytes::from(vec![0; 200]))]).is_none(),
            "too few"
        );
    }
}
