//! `softmetal cargo` on projects that know nothing of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program on objc2-metal: it sums 1 to 1000.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("example")
}

fn softmetal(directory: &Path, target: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    let command = command.current_dir(directory).env("CARGO_TARGET_DIR", target).arg("cargo").args(args);
    command.env_remove("RUSTFLAGS").env("SOFTMETAL_SEED", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_example_runs_and_its_project_stays_as_it_was() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    let before = ["Cargo.toml", "Cargo.lock"].map(|name| fs::read(example().join(name)).unwrap());
    let output = softmetal(&example(), &target, &["run", "-q"]);
    assert_eq!(text(&output.stdout), "500500 on softmetal\n", "{}", text(&output.stderr));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let after = ["Cargo.toml", "Cargo.lock"].map(|name| fs::read(example().join(name)).unwrap());
    assert!(before == after && !example().join("target").exists());

    // The same with a barrier of its kernel taken away.
    let source = fs::read_to_string(example().join("src/sum.metal")).unwrap();
    let wrong = target.join("wrong.metal");
    let barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);";
    fs::write(&wrong, source.replace(barrier, "")).unwrap();
    let output = softmetal(&example(), &target, &["run", "-q", "--", wrong.to_str().unwrap()]);
    let errors = text(&output.stderr);
    assert!(errors.contains("Race in sum"), "{errors}");
    assert_eq!(output.status.code(), Some(86), "{errors}");
}

#[test]
fn a_workspace_has_its_members_and_what_lies_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("project");
    for (path, content) in [
        ("project/Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\nresolver = \"2\"\n".to_owned()),
        ("project/crates/plain/Cargo.toml", package("plain", "")),
        ("project/crates/plain/src/lib.rs", String::new()),
        (
            "project/crates/app/Cargo.toml",
            package(
                "app",
                "plain = { path = \"../plain\" }\nshared = { path = \"../../../shared\" }\nobjc2-metal = { version = \"0.3\", optional = true }\n",
            ),
        ),
        ("project/crates/app/src/lib.rs", String::new()),
        ("project/crates/app/notes/one", String::new()),
        ("shared/Cargo.toml", package("shared", "")),
        ("shared/src/lib.rs", String::new()),
    ] {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    // The versions that are on this machine already.
    fs::copy(example().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    let lock = fs::read(root.join("Cargo.lock")).unwrap();

    let target = directory.path().join("target");
    let output =
        softmetal(&root.join("crates/app"), &target, &["tree", "--all-features", "--edges", "features"]);
    let tree = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(tree.contains("objc2 feature \"gnustep-2-1\""), "{tree}");
    for path in
        ["target/softmetal/crates/objc2-metal-0_3_2)", "target/softmetal/tree/crates/plain)", "shared)"]
    {
        let path = directory.path().join(path);
        assert!(tree.contains(&path.display().to_string()), "{}:\n{tree}", path.display());
    }
    assert_eq!(fs::read(root.join("Cargo.lock")).unwrap(), lock);

    // What is removed from the project goes from the copy.
    let link = target.join("softmetal/tree/crates/app/notes");
    assert!(link.is_symlink());
    fs::rename(root.join("crates/app/notes"), root.join("crates/app/papers")).unwrap();
    assert!(softmetal(&root, &target, &["metadata", "--no-deps"]).status.success());
    assert!(!link.is_symlink() && target.join("softmetal/tree/crates/app/papers").is_symlink());
}

#[test]
fn a_project_without_metal_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("src")).unwrap();
    fs::write(directory.path().join("Cargo.toml"), package("plain", "")).unwrap();
    fs::write(directory.path().join("src/lib.rs"), "").unwrap();
    let output = softmetal(directory.path(), &directory.path().join("target"), &["build"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("wants a dependency on objc2, got none"), "{errors}");
    assert!(!directory.path().join("Cargo.lock").exists());
}

fn package(name: &str, dependencies: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
    )
}
