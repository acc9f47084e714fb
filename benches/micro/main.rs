//! What the engine's own work costs, without a server: cutting frames, decoding, planning. Beside the first two
//! stand the crates that do the same: `pgwire-replication` cuts frames, `pg_walstream` decodes.
//!
//! Hazard: a stream of one shape flatters. So recorded streams of real servers stand beside generated ones,
//! narrow rows beside wide ones, updates beside inserts. All figures are of one core.
//!
//!     cargo bench --bench micro                    # all; about a minute
//!     cargo bench --bench micro -- apply           # those whose name holds "apply"

mod sample;

use std::hint::black_box;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pg_walstream::LogicalReplicationParser;
use pgstream::apply::{GroupBounds, Rehearsal};
use pgstream::pgoutput::Decoder;
use pgstream::wire::{FRAME_BYTES_MAX, FrameBuffer};
use pgwire_replication::protocol::framing::MessageReader;
use tokio::runtime::Builder;

use sample::{Shape, Stream, recorded};

/// Bytes that one read of a socket brings.
const READ_BYTES: usize = 128 << 10;
/// Changes of a generated stream.
const CHANGES: u32 = 20_000;

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for shape in [Shape::NARROW, Shape::WIDE] {
        let stream = Stream::inserts(shape, CHANGES, 10);
        let wire = framed(&stream.messages);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(shape.name, |bencher| {
            bencher.iter(|| {
                let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
                let mut frames = 0_u32;
                for read in wire.chunks(READ_BYTES) {
                    buffer.space().put_slice(read);
                    while let Ok(Some(frame)) = buffer.next_frame() {
                        black_box(frame);
                        frames += 1;
                    }
                }
                assert_eq!(frames as usize, stream.messages.len());
            });
        });
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        group.bench_function(format!("{}/pgwire-replication", shape.name), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let (mut reader, mut rest) = (MessageReader::new(), wire.as_slice());
                    for _ in 0..stream.messages.len() {
                        black_box(reader.read(&mut rest).await).expect("the stream is whole");
                    }
                });
            });
        });
    }
    group.finish();
}

/// As a walsender sends it: CopyData around `XLogData` around each message.
fn framed(messages: &[Bytes]) -> Vec<u8> {
    let mut wire = Vec::new();
    for message in messages {
        let length = 4 + 25 + message.len();
        wire.put_u8(b'd');
        wire.put_i32(i32::try_from(length).expect("messages here are small"));
        wire.put_u8(b'w');
        wire.put_bytes(0, 24);
        wire.put_slice(message);
    }
    wire
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let recorded = recorded().into_iter().map(|stream| (format!("recorded/{}", stream.name), stream));
    let generated = [Shape::NARROW, Shape::WIDE]
        .map(|shape| (format!("generated/{}", shape.name), Stream::inserts(shape, CHANGES, 10)));
    for (name, stream) in recorded.chain(generated) {
        // Once by its bytes, once by its changes: criterion shows one rate per bench.
        for (unit, throughput) in [
            ("bytes", Throughput::Bytes(stream.bytes())),
            ("changes", Throughput::Elements(stream.changes())),
        ] {
            group.throughput(throughput);
            group.bench_function(format!("{name}/{unit}"), |bencher| {
                bencher.iter(|| {
                    let mut decoder = Decoder::new(stream.version);
                    for message in &stream.messages {
                        black_box(decoder.decode(message.clone())).expect("the stream is whole");
                    }
                });
            });
            group.bench_function(format!("{name}/{unit}/pg_walstream"), |bencher| {
                bencher.iter(|| {
                    let version = u32::from(stream.version);
                    let mut parser = LogicalReplicationParser::with_protocol_version(version);
                    for message in &stream.messages {
                        black_box(parser.parse_wal_message_bytes(message.clone()))
                            .expect("the stream is whole");
                    }
                });
            });
        }
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    let streams = [
        Stream::inserts(Shape::NARROW, CHANGES, 10),
        Stream::inserts(Shape::WIDE, CHANGES, 10),
        Stream::updates(Shape::NARROW, CHANGES, CHANGES),
        Stream::updates(Shape::WIDE, CHANGES, CHANGES),
        // Every row ten times over: what net changes are for.
        Stream::updates(Shape::NARROW, CHANGES, CHANGES / 10),
        Stream::tpcb(CHANGES / 4),
    ];
    for stream in streams {
        group.throughput(Throughput::Elements(stream.changes()));
        group.bench_function(stream.name.as_str(), |bencher| {
            bencher.iter_batched(
                || {
                    let bounds = GroupBounds { age: Duration::from_secs(3600), ..GroupBounds::default() };
                    Rehearsal::new(stream.tables.clone(), stream.version, bounds).expect("a runtime")
                },
                |mut rehearsal| {
                    for message in &stream.messages {
                        rehearsal.push(message.clone()).expect("the stream fits the tables");
                    }
                    let rehearsed = rehearsal.finish().expect("the stream is whole");
                    assert_eq!(rehearsed.changes, stream.changes());
                    rehearsed
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Shorter than criterion's defaults: some thirty benches in about a minute.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
}

criterion_group! { name = benches; config = settings(); targets = frames, decode, apply }
criterion_main!(benches);
