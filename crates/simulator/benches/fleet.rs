//! The cost of a message before it is sent: `cargo bench -p iot-simulator`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iot_simulator::bench;
use iot_simulator::config::Format;

const ALL: &[&str] = &["temperature", "humidity", "pressure", "switch", "current"];

fn sensors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reading");
    group.throughput(Throughput::Elements(1));
    for (name, mut next) in bench::sensors() {
        group.bench_function(name, |bencher| bencher.iter(&mut next));
    }
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    for (name, format) in [("json", Format::Json), ("protobuf", Format::Protobuf)] {
        for count in [1, 5] {
            let mut emit = bench::device(format, &ALL[..count]);
            let mut out = Vec::new();
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}, readings {count}"), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    emit(&mut out);
                    black_box(out.len())
                });
            });
        }
    }
}

fn batches(criterion: &mut Criterion) {
    let mut batch = bench::batch();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(batch() as u64));
    group.bench_function("filled and taken", |bencher| bencher.iter(&mut batch));
}

criterion_group!(fleet, sensors, messages, batches);
criterion_main!(fleet);
