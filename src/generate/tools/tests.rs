use std::path::Path;

use super::*;
use crate::load::ChatTemplate;

fn tools() -> Value {
    let tool = |name: &str| {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
    };
    json!([tool("get_weather"), tool("get_time")])
}

/// What is said, for text in pieces of `n` characters: the text, and the calls as `id name arguments`.
fn parse(format: ToolFormat, text: &str, n: usize) -> (String, Vec<String>) {
    let mut parser = ToolParser::new(format, &tools(), 0);
    let chars: Vec<char> = text.chars().collect();
    let mut said: Vec<Said> =
        chars.chunks(n).flat_map(|c| parser.push(&c.iter().collect::<String>())).collect();
    said.extend(parser.finish());
    let (mut out, mut calls) = (String::new(), Vec::new());
    for said in said {
        match said {
            Said::Text(text) => out += &text,
            Said::Call(call) => {
                calls.push(format!("{} {} {}", call.id, call.name, Value::Object(call.arguments)))
            }
        }
    }
    (out, calls)
}

#[test]
fn calls_of_every_family_in_any_pieces() {
    use ToolFormat::*;
    let weather = r#"get_weather {"city":"Rome </tool_call>"}"#;
    let rome = r#"get_weather {"city":"Rome"}"#;
    for (format, text, rest, calls) in [
        (
            Hermes,
            "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n\
             <tool_call>{\"name\": \"get_time\", \"arguments\": \"{}\"}</tool_call>",
            "Let me see.\n\n",
            vec![format!("call00001 {rome}"), "call00002 get_time {}".into()],
        ),
        // The end is missing: the answer ended with the call.
        (Hermes, r#"<tool_call>{"name": "f", "arguments": {}}"#, "", vec!["call00001 f {}".into()]),
        (Hermes, "a <tool_cal b", "a <tool_cal b", vec![]),
        (
            Hermes,
            "<tool_call>{\"name\": oops}</tool_call> so",
            "<tool_call>{\"name\": oops}</tool_call> so",
            vec![],
        ),
        (Hermes, "<tool_call>{\"name\": \"f\", \"argu", "<tool_call>{\"name\": \"f\", \"argu", vec![]),
        (
            Llama,
            "\n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Rome </tool_call>\"}}",
            "",
            vec![format!("call00001 {weather}")],
        ),
        (
            Llama,
            r#"<|python_tag|>{"name": "other", "parameters": {}}; {"name": "get_time", "parameters": {}}"#,
            "",
            vec!["call00001 other {}".into(), "call00002 get_time {}".into()],
        ),
        (Llama, r#"{"name": "Bob", "parameters": {}}"#, r#"{"name": "Bob", "parameters": {}}"#, vec![]),
        (Llama, r#"{"city": "Rome"}"#, r#"{"city": "Rome"}"#, vec![]),
        (
            Llama,
            r#"See {"name": "get_time", "parameters": {}}"#,
            r#"See {"name": "get_time", "parameters": {}}"#,
            vec![],
        ),
        (Llama, "<|python_tag|>print(1)", "<|python_tag|>print(1)", vec![]),
        (
            Mistral,
            r#"[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}]"#,
            "",
            vec![format!("abcdefghi {rome}"), "call00002 g {}".into()],
        ),
        (
            Mistral,
            r#"Ok.[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "Rome"}[TOOL_CALLS]g{}"#,
            "Ok.",
            vec![format!("123456789 {rome}"), "call00002 g {}".into()],
        ),
        (Mistral, r#"[TOOL_CALLS] [{"name": 1}]"#, r#"[TOOL_CALLS] [{"name": 1}]"#, vec![]),
        (Mistral, "[TOOL_CALLS]", "[TOOL_CALLS]", vec![]),
    ] {
        // A mark inside a string ends a Hermes call early; for the others it is text.
        for n in 1..=text.len() {
            assert_eq!(parse(format, text, n), (rest.to_string(), calls.clone()), "{text}, {n} a piece");
        }
    }
}

#[test]
fn text_is_held_back_only_where_a_call_may_begin() {
    let mut parser = ToolParser::new(ToolFormat::Hermes, &tools(), 0);
    assert_eq!(parser.push("a <"), [Said::Text("a ".into())]);
    assert_eq!(parser.push("b>"), [Said::Text("<b>".into())]);
    let mut parser = ToolParser::new(ToolFormat::Llama, &tools(), 0);
    assert_eq!(parser.push(" No {"), [Said::Text(" No {".into())]);
}

#[test]
fn templates_write_what_is_parsed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates");
    for (name, format) in [
        ("qwen3", ToolFormat::Hermes),
        ("qwen2.5", ToolFormat::Hermes),
        ("llama3.2", ToolFormat::Llama),
        ("mistral_v0.3", ToolFormat::Mistral),
    ] {
        let source = std::fs::read_to_string(dir.join(format!("{name}.jinja"))).unwrap();
        assert_eq!(ToolFormat::of(&source), Some(format), "{name}");
        let template = ChatTemplate::new(&source, Some("<s>"), Some("</s>")).unwrap();
        let arguments = json!({"city": "Zürich \"1\""}).as_object().unwrap().clone();
        let call = ToolCall { id: "call00001".into(), name: "get_weather".into(), arguments };
        let messages = [
            json!({"role": "user", "content": "How is it?"}),
            json!({"role": "assistant", "tool_calls": [call.for_template()]}),
        ];
        let text = template.render(&messages, Some(&tools()), false, &Map::new()).unwrap();
        let answer = &text[text.rfind(format.mark()).unwrap_or_else(|| text.rfind("{\"name\"").unwrap())..];
        let end =
            ["<|im_end|>", "<|eot_id|>", "</s>"].iter().filter_map(|end| answer.find(end)).min().unwrap();
        let mut parser = ToolParser::new(format, &tools(), 0);
        let mut said = parser.push(&answer[..end]);
        said.extend(parser.finish());
        assert!(said.contains(&Said::Call(call.clone())), "{name}: {answer:?}: {said:?}");
    }
    for name in ["chatml", "gemma3", "zephyr"] {
        let source = std::fs::read_to_string(dir.join(format!("{name}.jinja"))).unwrap();
        assert_eq!(ToolFormat::of(&source), None, "{name}");
    }
}

#[test]
fn a_call_is_openai_s() {
    let arguments = json!({"city": "Rome"}).as_object().unwrap().clone();
    let call = ToolCall { id: "call00001".into(), name: "f".into(), arguments };
    let function = json!({"name": "f", "arguments": "{\"city\":\"Rome\"}"});
    assert_eq!(
        serde_json::to_value(&call).unwrap(),
        json!({"id": "call00001", "type": "function", "function": function})
    );
    assert!(check_tools("--tools", &tools()).is_ok());
    for bad in [json!({}), json!([]), json!([{"name": "f"}])] {
        let error = check_tools("--tools", &bad).unwrap_err().to_string();
        assert!(error.starts_with("--tools: wants a list of tools"), "{error}");
    }
}
