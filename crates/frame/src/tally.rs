//! Running digests over records: what the writer puts into the seal, and what a verifier compares it with.

use crate::record::Stream;

/// Kind bytes in the order digest and in frame headers.
pub(crate) const KIND_OUTPUT: u8 = 1;
pub(crate) const KIND_DROPPED: u8 = 2;

/// Bytes of one record's tuple in the order digest.
const ORDER_TUPLE_BYTES: usize = 26;
/// Small updates are gathered to this size: BLAKE3 hashes eight chunks of 1 KiB at once, and one at a time is slow.
const GATHER_BYTES: usize = 8 * 1024;

/// Counts and digests of the records so far.
///
/// It checks nothing: the writer gives out the seqs, and a decoder has checked them.
#[derive(Clone)]
pub struct Tally {
    records: u64,
    streams: [StreamTally; 2],
    order: Gather,
}

#[derive(Clone)]
struct StreamTally {
    bytes: u64,
    dropped: u64,
    digest: Gather,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Allocates its buffers (24 KiB) here and nothing later.
    pub fn new() -> Self {
        let stream = StreamTally { bytes: 0, dropped: 0, digest: Gather::new() };
        Tally { records: 0, streams: [stream.clone(), stream], order: Gather::new() }
    }

    /// Counts an Output record.
    pub fn output(&mut self, seq: u64, time: u64, stream: Stream, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let of = &mut self.streams[stream.index()];
        of.bytes = of.bytes.saturating_add(length);
        of.digest.update(bytes);
        self.record(KIND_OUTPUT, seq, time, stream, length);
    }

    /// Counts a Dropped record of `bytes` bytes.
    pub fn dropped(&mut self, seq: u64, time: u64, stream: Stream, bytes: u64) {
        let of = &mut self.streams[stream.index()];
        of.dropped = of.dropped.saturating_add(bytes);
        self.record(KIND_DROPPED, seq, time, stream, bytes);
    }

    fn record(&mut self, kind: u8, seq: u64, time: u64, stream: Stream, length: u64) {
        let mut tuple = [0; ORDER_TUPLE_BYTES];
        tuple[0..8].copy_from_slice(&seq.to_le_bytes());
        tuple[8..16].copy_from_slice(&time.to_le_bytes());
        tuple[16..24].copy_from_slice(&length.to_le_bytes());
        tuple[24] = stream as u8;
        tuple[25] = kind;
        self.order.update(&tuple);
        self.records += 1;
    }

    /// Output and Dropped records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes kept, bytes dropped, and BLAKE3 of the kept bytes.
    pub fn stream(&self, stream: Stream) -> (u64, u64, [u8; 32]) {
        let of = &self.streams[stream.index()];
        (of.bytes, of.dropped, of.digest.blake3())
    }

    /// BLAKE3 over every record's tuple.
    pub fn order_blake3(&self) -> [u8; 32] {
        self.order.blake3()
    }
}

/// A hasher that takes many small updates as few large ones.
#[derive(Clone)]
struct Gather {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Gather {
    fn new() -> Self {
        Gather { hasher: blake3::Hasher::new(), waiting: Vec::with_capacity(GATHER_BYTES) }
    }

    fn update(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > GATHER_BYTES {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
        if bytes.len() >= GATHER_BYTES {
            self.hasher.update(bytes);
        } else {
            self.waiting.extend_from_slice(bytes);
        }
    }

    fn blake3(&self) -> [u8; 32] {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.waiting);
        *hasher.finalize().as_bytes()
    }
}
