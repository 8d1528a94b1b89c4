//! How fast the format is on this machine: `cargo run --release -p lastword-frame --example throughput`.

use std::hint::black_box;
use std::time::Instant;

use lastword_frame::tally::Tally;
use lastword_frame::verify::Verifier;
use lastword_frame::{Begin, Frame, Ordering, Stream, binary, lines};

/// Bytes of output per measurement.
const BYTES: usize = 64 << 20;
/// Bytes given to a decoder at a time.
const PUSH_BYTES: usize = 64 * 1024;

fn main() {
    println!(
        "{:>9}  {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}   MB/s of output (records/s in thousands)",
        "record", "tally", "encode", "decode", "verify", "to lines", "from lines"
    );
    for size in [20, 100, 4096, 65_536] {
        row(size);
    }
}

fn row(size: usize) {
    let text: Vec<u8> = b"a line of output, as programs write them; 0123456789\n"
        .iter()
        .copied()
        .cycle()
        .take(size)
        .collect();
    let count = (BYTES / size).min(1 << 20) as u64;
    let frame =
        |seq| Frame::Output { seq, time: seq * 1000, stream: Stream::ALL[seq as usize & 1], bytes: &text };
    let begin = Frame::Begin(Begin {
        version: Begin::VERSION,
        id: [1; 16],
        boot_id: [2; 16],
        wall_ns: 1_767_225_600_000_000_000,
        ordering: Ordering::Exact,
        tty: false,
    });
    print!("{size:>9}");
    let measure = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        let seconds = start.elapsed().as_secs_f64();
        let (mb, records) = (count as f64 * size as f64 / 1e6 / seconds, count as f64 / 1e3 / seconds);
        print!("  {mb:>5.0} {records:>5.0}");
    };
    measure(&mut || {
        let mut tally = Tally::new();
        (0..count).for_each(|seq| tally.output(seq, seq * 1000, Stream::ALL[seq as usize & 1], &text));
        black_box(tally.order_blake3());
    });
    let mut bytes = Vec::with_capacity(count as usize * (size + binary::HEADER_BYTES) + binary::BEGIN_BYTES);
    bytes.resize(bytes.capacity(), 1);
    bytes.clear();
    binary::encode(&begin, &mut bytes);
    measure(&mut || (0..count).for_each(|seq| binary::encode(&frame(seq), &mut bytes)));
    measure(&mut || {
        let mut decoder = binary::Decoder::new();
        for piece in bytes.chunks(PUSH_BYTES) {
            decoder.push(piece);
            while let Ok(Some(frame)) = decoder.next() {
                black_box(frame);
            }
        }
        assert_eq!(decoder.offset(), bytes.len() as u64);
    });
    measure(&mut || {
        let mut verifier = Verifier::new();
        bytes.chunks(PUSH_BYTES).for_each(|piece| verifier.push(piece));
        assert_eq!(verifier.finish().records, count);
    });
    let (mut encoder, mut log) =
        (lines::Encoder::new(), Vec::with_capacity(count as usize * (size * 2 + 200)));
    encoder.encode(&begin, &mut log);
    measure(&mut || (0..count).for_each(|seq| encoder.encode(&frame(seq), &mut log)));
    measure(&mut || {
        let mut decoder = lines::Decoder::new();
        for piece in log.chunks(PUSH_BYTES) {
            decoder.push(piece);
            while let Some(event) = decoder.next() {
                black_box(event);
            }
        }
        assert_eq!(decoder.next_seq(), count);
    });
    println!();
}
