//! Goldens of transformers, and the corners they do not reach.

use serde_json::json;

use super::*;

const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat_templates");

fn render(source: &str, messages: Value, extra: Value) -> Result<String> {
    let template = ChatTemplate::new(source, Some("<s>"), Some("</s>"))?;
    template.render(messages.as_array().unwrap(), None, false, extra.as_object().unwrap())
}

fn show(source: &str, extra: Value) -> String {
    render(source, json!([]), extra).unwrap()
}

#[test]
fn every_golden_of_transformers_is_equal_byte_for_byte() {
    let cases = std::fs::read_to_string(format!("{TEMPLATES}/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let (mut failures, mut spans_seen) = (Vec::new(), 0);
    for (index, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let source = std::fs::read_to_string(format!("{TEMPLATES}/{name}.jinja")).unwrap();
        let token = |key: &str| case[key].as_str();
        let mut template = ChatTemplate::new(&source, token("bos_token"), token("eos_token")).unwrap();
        if let Some(now) = token("now") {
            let now = chrono::NaiveDateTime::parse_from_str(now, "%Y-%m-%d %H:%M:%S").unwrap();
            template = template.at(now).unwrap();
        }
        let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
        let (messages, extra) = (case["messages"].as_array().unwrap(), case["kwargs"].as_object().unwrap());
        let add = case["add_generation_prompt"].as_bool().unwrap();
        match (template.render(messages, tools, add, extra), case["rendered"].as_str()) {
            (Ok(text), Some(golden)) if text == golden => {}
            (Err(Error::Template { message }), None)
                if case["error_type"] != "TemplateError" || case["error"] == message.as_str() => {}
            (got, _) => failures.push(format!("{index} {name}: got {got:?}\nwants {case}")),
        }
        if let Some(golden) = case["generation_indices"].as_array() {
            let (text, spans) = template.render_with_spans(messages, tools, add, extra).unwrap();
            let chars = |byte: usize| text[..byte].chars().count();
            let spans: Vec<_> =
                spans.iter().map(|span| json!([chars(span.start), chars(span.end)])).collect();
            spans_seen += spans.len();
            if spans != *golden {
                failures.push(format!("{index} {name}: spans {spans:?}, wants {golden:?}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures[..failures.len().min(3)].join("\n")
    );
    assert!(cases.len() > 100 && spans_seen > 5);
}

#[test]
fn values_print_as_python_prints_them() {
    let extra = json!({"x": [1.0, 1e16, 1e-5, 0.0001, 123456789012345.0, "it's", null, true, {"k": []}]});
    let python = r#"[1.0, 1e+16, 1e-05, 0.0001, 123456789012345.0, "it's", None, True, {'k': []}]"#;
    assert_eq!(show("{{ x }}", extra.clone()), python);
    assert_eq!(show("{{ x[:2] }} {{ x[1] }} {{ (1,) }}", extra), "[1.0, 1e+16] 1e+16 (1,)");
    let json =
        json!({"x": {"b": "<é\u{1f600}\u{7f}\u{1}\">", "a": [1e16, {}, []], "n": 18446744073709551615u64}});
    let rows = [
        (
            "{{ x | tojson }}",
            r#"{"b": "<é😀\u{7f}\u0001\">", "a": [1e+16, {}, []], "n": 18446744073709551615}"#,
        ),
        ("{{ x.b | tojson(ensure_ascii=true) }}", r#""<\u00e9\ud83d\ude00\u007f\u0001\">""#),
        ("{{ x.a | tojson(indent=2) }}", "[\n  1e+16,\n  {},\n  []\n]"),
        ("{{ x | tojson(sort_keys=true, separators=(',', ':')) }}", ""),
        // Not `1` beside `true`: they are equal, and one key or two by the hash's luck.
        ("{{ {1: none, false: 2} | tojson }}", r#"{"1": null, "false": 2}"#),
    ];
    for (source, wanted) in rows.into_iter().filter(|(_, wanted)| !wanted.is_empty()) {
        assert_eq!(show(source, json.clone()), wanted.replace("\\u{7f}", "\u{7f}"), "{source}");
    }
    assert!(show(rows[3].0, json).starts_with(r#"{"a":[1e+16,{},[]],"b":"#));
    assert!(render("{{ nothing | tojson }}", json!([]), json!({})).is_err());
}

#[test]
fn methods_of_strings_and_lists_are_pythons() {
    for (source, wanted) in [
        ("{{ 'a-b-c'.rsplit('-', 1) }}", "['a-b', 'c']"),
        ("{{ ' a  b c '.rsplit(none, 1) }}{{ ' a  b '.rsplit() }}", "[' a  b', 'c']['a', 'b']"),
        ("{{ 'a-b-c'.partition('-') }} {{ 'x'.rpartition('-')[2] }}", "('a', '-', 'b-c') x"),
        ("{{ 'prefix'.removeprefix('pre').removesuffix('x') }}", "fi"),
        ("{{ '-7'.zfill(4) }}{{ 'é'.rjust(3) }}|{{ 'é'.ljust(3, '.') }}", "-007  é|é.."),
        ("{{ [1, 2].index(2) }}{{ 'añb'.index('b') }}", "12"),
        (
            "{{ 'ab' is sequence }} {{ {} is sequence }} {{ [1][:1] is sequence }} {{ 1 is sequence }}",
            "True True True False",
        ),
        ("{{ x.items() | list }}{{ x.get('no') }}{{ x['items'] }}", "[('items', 1)]None1"),
        ("{% for m in [1, 2, 3][::-1] %}{{ m }}{% endfor %}", "321"),
    ] {
        assert_eq!(show(source, json!({"x": {"items": 1}})), wanted, "{source}");
    }
}

#[test]
fn generation_blocks_keep_whitespace_scope_and_raw_text() {
    let source = "{% set x = 1 %}\n{%- generation -%}\n {% set x = 2 %}{{ x }} {# {% generation %} #}\n\
        {%- endgeneration %}\n{{ x }}{% raw %}{% generation %}{% endraw %}{{ '{% generation %}' }}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    let (text, spans) = template.render_with_spans(&[], None, false, &Map::new()).unwrap();
    assert_eq!(format!("{text} {spans:?}"), "2 1{% generation %}{% generation %} [0..2]");
    assert!(!ChatTemplate::new("{{ generation }}", None, None).unwrap().has_generation());

    // A conversation that contains the marks itself.
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    let messages = [json!({"role": "user", "content": "\u{FDD0}é\u{FDD1}"})];
    let (text, spans) = template.render_with_spans(&messages, None, false, &Map::new()).unwrap();
    assert_eq!(format!("{text} {spans:?}"), "\u{FDD0}é\u{FDD1} [0..8]");
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let rendered = |tools: Option<&Value>| {
        let template = ChatTemplate::open(dir.path()).unwrap().unwrap();
        template.render(&[], tools, false, &Map::new()).unwrap()
    };
    assert!(ChatTemplate::open(dir.path()).unwrap().is_none());
    let config = r#"{"bos_token": {"content": "<s>"}, "pad_token": "<p>", "eos_token": null, "chat_template":
        [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token ~ pad_token ~ eos_token }}"}]}"#;
    write("tokenizer_config.json", config);
    assert_eq!((rendered(None), rendered(Some(&json!([])))), ("<s><p>".to_string(), "tools".to_string()));
    write("chat_template.json", r#"{"chat_template": "from json"}"#);
    assert_eq!(rendered(None), "from json");
    write("chat_template.jinja", "a\r\nb\r\n");
    assert_eq!(rendered(None), "a\nb");
    write("chat_template.jinja", "{% if %}");
    assert!(ChatTemplate::open(dir.path()).err().unwrap().to_string().starts_with("chat template: "));
}

#[test]
fn a_broken_or_hostile_template_is_an_error() {
    for source in [
        "{{ strftime_now('%Q%') }}",
        "{{ raise_exception() }}",
        "{% for i in range(99999999999) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ [1] | tojson(indent='x', nonsense=1) }}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ 'unterminated",
    ] {
        assert!(render(source, json!([]), json!({})).is_err(), "{source}");
    }
    let error = render("{{ raise_exception('Only users!') }}", json!([]), json!({})).unwrap_err();
    assert_eq!(error.to_string(), "chat template: Only users!");
    assert!(render("", json!(["text"]), json!({})).is_err());
}
