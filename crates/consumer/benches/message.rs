//! What a message costs by the parts of its way: `cargo bench -p iot-consumer`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iot_consumer::bench;

const ALL: &[&str] = &["temperature", "humidity", "pressure", "switch", "current"];
/// Devices in a partition.
const DEVICES: usize = 1_000;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, parse) in bench::parsers() {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(parse())));
    }
}

fn fold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    for (name, detect) in [("windows", false), ("windows and detection", true)] {
        for count in [1, 5] {
            let mut next = bench::fold(DEVICES, &ALL[..count], detect);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}, readings {count}"), |bencher| {
                bencher.iter(&mut next);
            });
        }
    }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for count in [1, 5] {
        let mut step = bench::step(DEVICES, &ALL[..count]);
        group.throughput(Throughput::Elements(DEVICES as u64));
        group.bench_function(format!("encoded, readings {count}"), |bencher| {
            bencher.iter(&mut step);
        });
    }
}

criterion_group!(message, parse, fold, apply);
criterion_main!(message);
