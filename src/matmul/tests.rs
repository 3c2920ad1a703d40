//! Choices by made-up timings, and tables on disk.

use super::site::Key;
use super::table::User;
use super::*;
use candle_core::DType;
use std::collections::BTreeMap;

fn key(device: &str) -> Key {
    Key { kind: "cpu".into(), device: device.into(), system: "linux".into(), versions: "1".into() }
}

fn entry(dtype: &str, shape: Shape, times: &[(Backend, f64)]) -> Entry {
    let timing = |us: f64| Timing { median_us: us, p20_us: us, p80_us: us };
    Entry { dtype: dtype.into(), shape, times: times.iter().map(|(b, us)| (*b, timing(*us))).collect() }
}

fn square(n: usize) -> Shape {
    Shape::new(1, n, n, n)
}

/// MPS pays a wait of 100 µs and is twice as fast per operation: it overtakes where candle's product takes 200 µs.
fn hybrid() -> Table {
    let entries = [128, 256, 512, 1024, 2048].map(|n| {
        let work = square(n).flops() / 1e6;
        entry("f32", square(n), &[(Backend::Candle, work), (Backend::Mps, 100.0 + work / 2.0)])
    });
    Table::new(key("a"), "2026-01-01".into(), entries)
}

#[test]
fn the_faster_backend_is_chosen_on_each_side_of_a_crossover() {
    let table = hybrid();
    let rules = table.rules();
    let of = |shape: Shape| table.choose(&rules, DType::F32, &shape);
    // 2 n³ = 200e6 at n = 464.
    for (n, backend) in
        [(64, Backend::Candle), (440, Backend::Candle), (490, Backend::Mps), (9000, Backend::Mps)]
    {
        assert_eq!(of(square(n)), Chosen { backend, why: Why::Fitted }, "{n}");
    }
    assert_eq!(of(square(256)), Chosen { backend: Backend::Candle, why: Why::Measured });
    assert_eq!(of(square(1024)), Chosen { backend: Backend::Mps, why: Why::Measured });
    assert_eq!(rules.len(), 2);
    assert!((rules[1].from_flops / 200e6 - 1.0).abs() < 0.1, "{rules:?}");
    // What was not measured is Candle's: another dtype, decoding, heads.
    let unmeasured = Chosen { backend: Backend::Candle, why: Why::Unmeasured };
    assert_eq!(table.choose(&rules, DType::F16, &square(2048)), unmeasured);
    for shape in [Shape::new(1, 1, 4096, 4096), Shape::new(32, 512, 512, 64), Shape::new(1, 4096, 16, 4096)] {
        assert_eq!(of(shape), unmeasured, "{shape}");
    }
}

#[test]
fn a_measured_product_is_chosen_as_measured_whatever_its_neighbours_are() {
    // A backend that loses at one shape of a size, and wins at the other shapes of about that size.
    let shapes =
        [Shape::new(1, 512, 512, 2048), Shape::new(1, 2048, 512, 512), Shape::new(1, 512, 2048, 512)];
    let lost = |i| if i == 1 { 20.0 } else { 1.0 };
    let entries = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| entry("f32", *shape, &[(Backend::Candle, 10.0), (Backend::Packed, lost(i))]));
    let table = Table::new(key("a"), String::new(), entries);
    let rules = table.rules();
    for (i, shape) in shapes.iter().enumerate() {
        let wanted = if i == 1 { Backend::Candle } else { Backend::Packed };
        assert_eq!(table.choose(&rules, DType::F32, shape).backend, wanted);
    }
    let between = Shape::new(1, 1024, 512, 1024);
    assert_eq!(table.choose(&rules, DType::F32, &between).backend, Backend::Packed);
}

#[test]
fn a_layout_has_crossovers_of_its_own() {
    let pair = |n: usize, shape: Shape, packed| {
        entry("f32", shape, &[(Backend::Candle, n as f64), (Backend::Packed, packed)])
    };
    let entries =
        [100, 200].iter().flat_map(|&n| [pair(n, square(n), 1e6), pair(n, square(n).by_weight(), 1.0)]);
    let table = Table::new(key("a"), String::new(), entries.collect::<Vec<_>>());
    let rules = table.rules();
    assert_eq!(table.choose(&rules, DType::F32, &square(150)).backend, Backend::Candle);
    assert_eq!(table.choose(&rules, DType::F32, &square(150).by_weight()).backend, Backend::Packed);
    // What was measured in the other layout only.
    let table = Table::new(key("a"), String::new(), [pair(100, square(100).by_weight(), 1.0)]);
    assert_eq!(table.choose(&table.rules(), DType::F32, &square(150)).backend, Backend::Packed);
}

#[test]
fn no_choice_of_a_measured_product_is_far_behind_the_best() {
    // Times as they come, without a law.
    let entries: Vec<_> = (1..400usize)
        .map(|i| {
            let us = |j: usize| 1.0 + ((i * 7919 + j * 104_729) % 1000) as f64;
            entry(
                "bf16",
                Shape::new(1, 16 + i, 8 * i, 1 + 3000 / i),
                &[(Backend::Candle, us(0)), (Backend::Packed, us(1))],
            )
        })
        .collect();
    let table = Table::new(key("a"), String::new(), entries);
    let rules = table.rules();
    for entry in &table.entries {
        let chosen = table.choose(&rules, DType::BF16, &entry.shape).backend;
        let best = entry.times.values().map(|time| time.median_us).fold(f64::INFINITY, f64::min);
        assert!(entry.times[&chosen].median_us <= 1.03 * best, "{}", entry.shape);
    }
}

#[test]
fn what_is_kept_of_a_table_chooses_as_the_table_does() {
    use Backend::{Candle, CublasLt, Fused};
    let entries = ["f32", "f16", "bf16", "f8"].iter().enumerate().flat_map(|(d, dtype)| {
        let of = move |i: usize| {
            let us = |j: usize| 1.0 + (((5 * d + i) * 7919 + j * 104_729) % 100) as f64;
            let shape = Shape::new(1, 16 + i % 5, 8 * i, 1 + 3000 / i);
            entry(dtype, shape, &[(Candle, us(0)), (CublasLt, us(1)), (Fused, us(2))])
        };
        (1..60).map(of)
    });
    let table = Table::new(key("a"), String::new(), entries.collect::<Vec<_>>());
    let known = choose::Known::of(&table);
    let shapes: Vec<_> = table.entries.iter().map(|entry| entry.shape).collect();
    let others = shapes
        .iter()
        .map(|shape| Shape { n: shape.n + 1, ..*shape })
        .chain([square(64), Shape::new(7, 9, 9, 9)]);
    let shapes: Vec<_> = shapes.iter().copied().chain(others).collect();
    let mut why = std::collections::HashSet::new();
    for user in [User::Calls, User::Layers] {
        for (dtype, shape) in [DType::F32, DType::F16, DType::BF16, DType::F64]
            .iter()
            .flat_map(|d| shapes.iter().map(move |s| (*d, s)))
        {
            let wanted = table.choose_for(user, &table.rules_for(user), dtype, shape);
            let found = known.choose(user, dtype, shape);
            assert_eq!(
                found,
                Some(wanted).filter(|chosen| chosen.why != Why::Unmeasured),
                "{dtype:?} {shape}"
            );
            why.insert(format!("{:?}", wanted.why));
        }
    }
    assert_eq!(why.len(), 3, "{why:?}");
}

#[test]
fn candle_keeps_what_others_win_by_noise() {
    let times = [(Backend::Candle, 100.4), (Backend::Packed, 100.0)];
    assert_eq!(entry("f32", square(64), &times).winner(), Backend::Candle);
    let times = [(Backend::Candle, 100.6), (Backend::Packed, 100.0)];
    assert_eq!(entry("f32", square(64), &times).winner(), Backend::Packed);
}

#[test]
fn two_runs_decide_together() {
    let mut both = entry("f32", square(64), &[(Backend::Candle, 100.0), (Backend::Packed, 104.0)]);
    assert_eq!(both.winner(), Backend::Candle);
    both.join(&entry("f32", square(64), &[(Backend::Packed, 90.0), (Backend::Candle, 100.0)]).times);
    assert_eq!(both.winner(), Backend::Packed);
    assert!((both.times[&Backend::Packed].median_us / (104.0f64 * 90.0).sqrt() - 1.0).abs() < 1e-12);
    assert_eq!(both.times[&Backend::Candle].median_us, 100.0);
}

#[test]
fn a_layer_leaves_its_kernel_for_what_it_can_call_and_is_faster() {
    let row = |n: usize| Shape::new(1, 1, n, n).by_weight();
    let of = |dtype: &str, times: &[(Backend, f64)], user: User| {
        let table = Table::new(key("a"), String::new(), [entry(dtype, row(512), times)]);
        let dtype = if dtype == "f32" { DType::F32 } else { DType::BF16 };
        // As it was measured, and as it is fitted.
        let both = [512, 640].map(|n| table.choose_for(user, &table.rules_for(user), dtype, &row(n)).backend);
        assert_eq!(both[0], both[1]);
        both[0]
    };
    use Backend::{Candle, CublasLt, Fused, Mps};
    let cuda = |fused| [(Candle, 10.0), (CublasLt, 8.0), (Fused, fused)];
    for (fused, call, layer) in [(9.0, CublasLt, Fused), (7.0, Fused, Fused), (10.04, CublasLt, Fused)] {
        assert_eq!(of("f32", &cuda(fused), User::Calls), call);
        assert_eq!(of("f32", &cuda(fused), User::Layers), layer);
    }
    assert_eq!(of("f32", &cuda(10.06), User::Layers), Candle);
    let metal = [(Candle, 10.0), (Mps, 5.0), (Fused, 8.0)];
    assert_eq!(of("f32", &metal, User::Layers), Mps);
    assert_eq!(of("bf16", &metal, User::Layers), Fused);
    assert_eq!(of("bf16", &metal, User::Calls), Mps);
}

#[test]
fn the_factors_of_a_low_rank_are_two_kinds() {
    assert_eq!(Shape::new(1, 512, 16, 2048).class(), Class::Down);
    assert_eq!(Shape::new(1, 512, 2048, 16).class(), Class::Up);
    assert_eq!(Shape::new(1, 512, 64, 64).class(), Class::Down);
    assert_eq!(Shape::new(1, 128, 64, 64).class(), Class::Wide);
    assert_eq!(Shape::new(1, 4, 2048, 16).class(), Class::Few);
}

#[test]
fn a_table_survives_disk_and_what_is_no_table_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("matmul-cpu.json");
    let load = |key: &Key| store::load_from(&path, key);
    assert_eq!(load(&key("a")), (None, None), "no file is no news");
    store::save_to(&path, &hybrid()).unwrap();
    assert_eq!(load(&key("a")), (Some(hybrid()), None));
    // In another order.
    let mut turned = hybrid();
    turned.entries.reverse();
    std::fs::write(&path, serde_json::to_vec(&turned).unwrap()).unwrap();
    assert_eq!(load(&key("a")), (Some(hybrid()), None));
    store::save_to(&path, &hybrid()).unwrap();
    // Another machine's.
    let (table, notice) = load(&key("b"));
    assert!(table.is_none() && notice.unwrap().contains("was measured with a, and here is b"));
    // Torn, empty, of another format.
    let whole = std::fs::read(&path).unwrap();
    let other = String::from_utf8(whole.clone()).unwrap().replace("\"schema\": 2", "\"schema\": 1");
    for text in [&whole[..whole.len() / 2], b"", b"[]", other.as_bytes()] {
        std::fs::write(&path, text).unwrap();
        let (table, notice) = load(&key("a"));
        assert!(table.is_none() && notice.unwrap().contains("is no table"));
    }
    // Measuring anew replaces it.
    store::save_to(&path, &hybrid()).unwrap();
    assert_eq!(load(&key("a")).0, Some(hybrid()));
}

#[test]
fn what_several_write_at_once_is_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("matmul-cpu.json");
    std::thread::scope(|scope| {
        for i in 1..=16 {
            let path = &path;
            scope.spawn(move || {
                let one = entry("f32", square(i), &[(Backend::Candle, i as f64)]);
                store::save_to(path, &Table::new(key("a"), "2026-01-01".into(), [one])).unwrap();
            });
        }
    });
    let table = store::load_from(&path, &key("a")).0.unwrap();
    let sizes: Vec<_> = table.entries.iter().map(|entry| entry.shape.m).collect();
    assert_eq!(sizes, (1..=16).collect::<Vec<_>>());
    // A later measurement of the same product counts.
    let again =
        Table::new(key("a"), "2026-01-02".into(), [entry("f32", square(3), &[(Backend::Packed, 1.0)])]);
    store::save_to(&path, &again).unwrap();
    let table = store::load_from(&path, &key("a")).0.unwrap();
    assert_eq!(table.entries.len(), 16);
    assert_eq!(
        table.entry(DType::F32, &square(3)).unwrap().times,
        BTreeMap::from([(Backend::Packed, again.entries[0].times[&Backend::Packed])])
    );
}

#[test]
fn tables_of_other_versions_lie_beside_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        key("a"),
        Key { versions: "1, debug build".into(), ..key("a") },
        Key { system: "linux 2".into(), ..key("a") },
        key("a "),
    ];
    let load = |key: &Key| store::load_from(&dir.path().join(store::name(key)), key);
    for (i, key) in keys.iter().enumerate() {
        // One that is missing is told of with what there is of the same device.
        let (table, notice) = load(key);
        assert_eq!(table, None);
        assert_eq!(notice.is_some(), i == 1 || i == 2, "{notice:?}");
        assert!(notice.is_none_or(|notice| notice.contains("one of ") && notice.contains("and here is")));
        store::save_to(&dir.path().join(store::name(key)), &Table { key: key.clone(), ..hybrid() }).unwrap();
    }
    for key in keys {
        assert_eq!(load(&key), (Some(Table { key: key.clone(), ..hybrid() }), None));
    }
}

/// Where a child process writes, and which one it is.
const CHILD: &str = "METAL_CANDLE_TABLE_OF_A_CHILD";

#[test]
fn what_two_processes_write_at_once_is_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("matmul-cpu.json");
    let children = [0, 1].map(|which| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "matmul::tests::table_of_a_child", "--test-threads=1"]);
        command.env(CHILD, format!("{which}{}", path.display()));
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let table = store::load_from(&path, &key("a")).0.unwrap();
    let sizes: Vec<_> = table.entries.iter().map(|entry| entry.shape.m).collect();
    assert_eq!(sizes, (2..102).collect::<Vec<_>>());
}

#[test]
fn table_of_a_child() {
    let Ok(given) = std::env::var(CHILD) else { return };
    let (which, path) = given.split_at(1);
    for i in 1..=50 {
        let one = entry("f32", square(2 * i + which.parse::<usize>().unwrap()), &[(Backend::Candle, 1.0)]);
        store::save_to(path.as_ref(), &Table::new(key("a"), "2026-01-01".into(), [one])).unwrap();
    }
}
