use candle_core::{DType, Device};

use super::*;
use crate::models::Model;

#[test]
fn a_run_that_goes_on_makes_the_batches_it_would_have_made() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    let model = Model::from_dir(&dir, DType::F32, &Device::Cpu).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (place.path().join("in.jsonl"), place.path().join("out.jsonl"));
    let rows: Vec<String> = (0..11).map(|i| json!({"prompt": format!("{i} foxes")}).to_string()).collect();
    std::fs::write(&input, rows.join("\n")).unwrap();
    let options = GenerateOptions { max_tokens: Some(2), ..GenerateOptions::default() };
    let jobs = Jobs::read(&input, &tokenizer, &JobDefaults::default(), &options, 512).unwrap();
    // How many rows each batch has.
    let run = || {
        let mut batches = Vec::new();
        let outcome = jobs.run(&model, "it", &tokenizer, 8, &output, |_, event| {
            match event {
                Some(Event::Prefill { .. }) => batches.push(0),
                Some(Event::Token { row, .. }) => batches.last_mut().into_iter().for_each(|n| *n = row + 1),
                None => {}
            }
            ControlFlow::Continue(())
        });
        (outcome.unwrap().answered, batches)
    };
    assert_eq!(run(), (11, vec![8, 3]));
    let whole = std::fs::read_to_string(&output).unwrap();
    for (done, batches) in [(5, vec![8, 3]), (8, vec![3]), (10, vec![3]), (11, vec![])] {
        let lines: Vec<&str> = whole.split_inclusive('\n').take(done).collect();
        std::fs::write(&output, lines.concat()).unwrap();
        assert_eq!(run(), (11 - done, batches), "after {done}");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), whole);
    }
    assert!(jobs.run(&model, "another", &tokenizer, 8, &output, |_, _| ControlFlow::Continue(())).is_err());
}
