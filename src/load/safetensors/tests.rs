//! What opening good, missing and damaged checkpoints does.

use rand::{Rng, SeedableRng};

use super::*;

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn write_sharded(dir: &Path) {
    save(&dir.join("a.safetensors"), [("x", tensor(&[1., 2., 3., 4., 5., 6.], &[2, 3]))], &[]).unwrap();
    let half = tensor(&[0.5, -2.0], &[2]).to_dtype(DType::BF16).unwrap();
    save(&dir.join("b.safetensors"), [("y", half)], &[]).unwrap();
    index(dir, r#"{"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#);
}

fn index(dir: &Path, text: &str) {
    std::fs::write(dir.join(INDEX), text).unwrap();
}

fn open_error(dir: &Path) -> String {
    Weights::open(dir).err().expect("an error").to_string()
}

#[test]
fn shards_load_by_name_and_convert() {
    let dir = tempfile::tempdir().unwrap();
    write_sharded(dir.path());
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!((weights.bytes(), weights.dtype("y")), (28, Some(DType::BF16)));
    let y = weights.get("y", 2, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(y.to_vec1::<f32>().unwrap(), [0.5, -2.0]);

    let wanted = [("x".to_string(), Shape::from((3, 2))), ("z".to_string(), Shape::from(4))];
    let error = weights.check(&wanted).unwrap_err().to_string();
    assert!(error.contains("x: wants shape [3, 2], got [2, 3]"), "{error}");
    assert!(error.contains("z: wants shape [4], got no such tensor"), "{error}");
    assert!(weights.get("x", (3, 2), DType::F32, &Device::Cpu).is_err());
}

#[test]
fn saved_files_carry_pt_metadata_and_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    // A transposed view is not contiguous: its elements must be written in logical order.
    let transposed = tensor(&[1., 2., 3., 4., 5., 6.], &[2, 3]).t().unwrap();
    save(&path, [("w", transposed)], &[]).unwrap();
    let first = std::fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&first).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let again = Weights::from_bytes("memory", first.clone()).unwrap();
    let w = again.get("w", (3, 2), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(w.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
    save(&path, [("w", w)], &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
}

#[test]
fn each_bad_directory_has_its_own_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open_error(&dir.path().join("absent")).contains("absent"));
    assert!(open_error(dir.path()).contains("got no weights"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(open_error(dir.path()).contains("got only pytorch_model.bin"));

    write_sharded(dir.path());
    index(
        dir.path(),
        r#"{"weight_map": {"x": "a.safetensors", "q": "b.safetensors", "p": "a.safetensors"}}"#,
    );
    let error = open_error(dir.path());
    assert!(error.contains("q: wants a tensor in b.safetensors") && error.contains("p: wants"), "{error}");
    for shard in ["../a.safetensors", "/etc/passwd", "s/../../a.safetensors", "./../a"] {
        index(dir.path(), &format!(r#"{{"weight_map": {{"x": "{shard}"}}}}"#));
        assert!(open_error(dir.path()).contains("wants shards inside the model directory"), "{shard}");
    }
    index(dir.path(), r#"{"weight_map": {"x": "gone.safetensors"}}"#);
    assert!(open_error(dir.path()).contains("gone.safetensors"));
    for garbage in ["", "{", "[]", r#"{"weight_map": 3}"#, r#"{"weight_map": {"x": null}}"#, "\u{0}\u{1}"] {
        index(dir.path(), garbage);
        assert!(open_error(dir.path()).contains("wants a weight_map"), "{garbage}");
    }
    std::fs::write(dir.path().join(WEIGHTS), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(open_error(dir.path()).contains("git lfs pull"));
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS);
    save(&path, [("x", tensor(&[1.0; 64], &[8, 8])), ("y", tensor(&[2.0; 16], &[16]))], &[]).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    for cut in (0..50).map(|_| rng.random_range(0..good.len())).chain([0, 1, 7, 8, 9, good.len() - 1]) {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(Weights::open(dir.path()).is_err(), "cut at {cut}");
    }
    for _ in 0..50 {
        let mut bad = good.clone();
        rng.fill(&mut bad[..8]);
        if bad[..8] != good[..8] {
            assert!(Weights::from_bytes("bad", bad).is_err());
        }
    }
    // A byte changed in the JSON may still be a valid header: it must load or fail, never panic.
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for _ in 0..500 {
        let mut bad = good.clone();
        bad[8 + rng.random_range(0..length)] = rng.random();
        if let Ok(weights) = Weights::from_bytes("bad", bad) {
            weights.names().for_each(|name| drop(weights.load(name, &Device::Cpu)));
        }
    }
}

#[test]
fn dimensions_that_overflow_are_refused() {
    for shape in ["[0, 9223372036854775807, 4]", "[9223372036854775807, 9223372036854775807]"] {
        let head = format!(r#"{{"x": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 0]}}}}"#);
        let mut file = (head.len() as u64).to_le_bytes().to_vec();
        file.extend(head.as_bytes());
        assert!(Weights::from_bytes("overflow", file).is_err(), "{shape}");
    }
}
