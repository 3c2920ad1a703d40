//! What a kernel declares: its parameters, where they are bound, and the rules of it.

use super::Problem;
use crate::msl::attributes::Attribute;
use crate::msl::token::{Place, Text, Token, text};
use std::collections::{BTreeMap, BTreeSet};

/// Indices that buffers and threadgroup memory are bound to.
const INDICES: u64 = 31;
/// Threads of a threadgroup that an Apple GPU runs.
const THREADS: u64 = 1024;

/// What a built-in's type may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BuiltIn {
    /// A scalar, or a vector of two or three.
    Position,
    /// A scalar.
    Index,
}

impl BuiltIn {
    const POSITIONS: [&str; 12] = [
        "thread_position_in_grid",
        "thread_position_in_threadgroup",
        "threadgroup_position_in_grid",
        "threads_per_grid",
        "threads_per_threadgroup",
        "threadgroups_per_grid",
        "dispatch_threads_per_threadgroup",
        "thread_position_in_simdgroup",
        "grid_origin",
        "grid_size",
        "stage_in_grid_origin",
        "stage_in_grid_size",
    ];
    const INDICES: [&str; 13] = [
        "thread_index_in_threadgroup",
        "thread_index_in_simdgroup",
        "thread_index_in_quadgroup",
        "simdgroup_index_in_threadgroup",
        "quadgroup_index_in_threadgroup",
        "simdgroups_per_threadgroup",
        "quadgroups_per_threadgroup",
        "threads_per_simdgroup",
        "thread_execution_width",
        "dispatch_simdgroups_per_threadgroup",
        "dispatch_quadgroups_per_threadgroup",
        "dispatch_threads_per_simdgroup",
        "threads_per_quadgroup",
    ];

    fn named(name: &str) -> Option<Self> {
        let position = Self::POSITIONS.contains(&name).then_some(Self::Position);
        position.or(Self::INDICES.contains(&name).then_some(Self::Index))
    }

    /// Whether it may have a type, in clang's words and without qualifiers.
    pub fn takes(self, ty: &str) -> bool {
        let lanes = ["", " __attribute__((ext_vector_type(2)))", " __attribute__((ext_vector_type(3)))"];
        let lanes = if self == Self::Index { &lanes[..1] } else { &lanes[..] };
        let elements = ["unsigned int", "uint", "unsigned short", "ushort"];
        elements.iter().any(|element| ty.strip_prefix(element).is_some_and(|rest| lanes.contains(&rest)))
    }

    /// What it may be.
    pub fn wants(self) -> &'static str {
        match self {
            Self::Position => "uint or ushort, or a vector of 2 or 3 of them",
            Self::Index => "uint or ushort",
        }
    }
}

/// What an attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Buffer,
    Threadgroup,
    FunctionConstant,
    BuiltIn(BuiltIn),
    MaxThreads,
    Other,
}

impl Binding {
    const OTHERS: [&str; 15] = [
        "kernel",
        "host_name",
        "texture",
        "sampler",
        "stage_in",
        "id",
        "visible",
        "stitchable",
        "required_threads_per_threadgroup",
        "maybe_unused",
        "nodiscard",
        "fallthrough",
        "deprecated",
        "noreturn",
        "unroll",
    ];

    /// None if Metal has no such attribute.
    pub fn of(attribute: &Attribute) -> Option<Self> {
        let name = attribute.name.as_str();
        match name {
            "buffer" => Some(Self::Buffer),
            "threadgroup" => Some(Self::Threadgroup),
            "function_constant" => Some(Self::FunctionConstant),
            "max_total_threads_per_threadgroup" => Some(Self::MaxThreads),
            _ => {
                let known =
                    Self::OTHERS.contains(&name) || name.starts_with("clang::") || name.starts_with("gnu::");
                BuiltIn::named(name).map(Self::BuiltIn).or(known.then_some(Self::Other))
            }
        }
    }
}

/// A parameter, or a variable at program scope.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub name: String,
    pub place: Place,
    pub attributes: Vec<Attribute>,
    /// The address spaces that it names.
    pub spaces: BTreeSet<&'static str>,
    /// Whether it is a pointer, a reference or an array.
    pub points: bool,
    /// What stands before its name.
    pub ty: String,
}

impl Parameter {
    /// The built-in that it is, by name.
    pub fn built_in(&self) -> Option<(&str, BuiltIn)> {
        self.attributes.iter().find_map(|attribute| match Binding::of(attribute) {
            Some(Binding::BuiltIn(built_in)) => Some((attribute.name.as_str(), built_in)),
            _ => None,
        })
    }
}

/// A kernel's declaration or definition.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub name: String,
    pub place: Place,
    pub is_template: bool,
    pub parameters: Vec<Parameter>,
    attributes: Vec<Attribute>,
    is_defined: bool,
}

impl Kernel {
    pub fn new(
        name: &Token,
        is_template: bool,
        attributes: Vec<Attribute>,
        parameters: Vec<Parameter>,
        is_defined: bool,
    ) -> Self {
        let Token { text, place, .. } = name.clone();
        Self { name: text, place, is_template, parameters, attributes, is_defined }
    }

    /// What is wrong with it, types aside.
    fn check(&self, found: &mut dyn FnMut(Place, &'static str, String)) {
        let mut bound = BTreeMap::new();
        for attribute in &self.attributes {
            if Binding::of(attribute) == Some(Binding::MaxThreads)
                && number(attribute).is_some_and(|threads| threads == 0 || threads > THREADS)
            {
                let got = text(&attribute.arguments);
                let text = format!("wants 1 to {THREADS} threads in a threadgroup, got {got}");
                found(attribute.place, "max-threads", text);
            }
        }
        for parameter in &self.parameters {
            self.parameter(parameter, &mut bound, found);
        }
    }

    fn parameter(
        &self,
        parameter: &Parameter,
        bound: &mut BTreeMap<(bool, u64), String>,
        found: &mut dyn FnMut(Place, &'static str, String),
    ) {
        let Parameter { name, place, spaces, points, .. } = parameter;
        let bindings: Vec<_> =
            parameter.attributes.iter().filter_map(|a| Some((a, Binding::of(a)?))).collect();
        let is = |wanted: Binding| bindings.iter().any(|(_, binding)| *binding == wanted);
        let place_of = |wanted: Binding| {
            bindings
                .iter()
                .find(|(_, binding)| *binding == wanted)
                .map_or(*place, |(attribute, _)| attribute.place)
        };
        for (attribute, binding) in &bindings {
            let (Binding::Buffer | Binding::Threadgroup) = binding else { continue };
            let Some(index) = number(attribute) else { continue };
            if index >= INDICES {
                let text =
                    format!("wants a {} index below {INDICES}, got {index} for {name}", attribute.name);
                found(attribute.place, "index", text);
            }
            // Parameters that a function constant switches on and off may share an index.
            let gated = is(Binding::FunctionConstant);
            if let Some(other) =
                bound.insert((*binding == Binding::Buffer, index), name.clone()).filter(|_| !gated)
            {
                let text =
                    format!("wants each {} index once, got {index} for {other} and {name}", attribute.name);
                found(attribute.place, "index", text);
            }
        }
        if bindings.iter().any(|(_, binding)| *binding == Binding::Other) {
            return;
        }
        let built_in = parameter.built_in();
        if let Some((attribute, _)) = built_in.filter(|_| *points) {
            found(*place, "kernel-parameter", format!("wants {attribute} by value, got {name}"));
        } else if built_in.is_none() && !points {
            let text = format!("wants a pointer, a reference or a built-in, got {name} by value");
            found(*place, "kernel-parameter", text);
        } else if built_in.is_none() && (spaces.is_empty() || spaces.contains("thread")) {
            let text = format!("wants device, constant or threadgroup memory, got {name} in thread memory");
            found(*place, "kernel-parameter", text);
        }
        if is(Binding::Buffer) && spaces.contains("threadgroup") {
            let text =
                format!("wants [[buffer]] on device or constant memory, got {name} in threadgroup memory");
            found(place_of(Binding::Buffer), "kernel-parameter", text);
        }
        if is(Binding::Threadgroup) && !spaces.contains("threadgroup") {
            let text = format!("wants [[threadgroup]] on threadgroup memory, got {name}");
            found(place_of(Binding::Threadgroup), "kernel-parameter", text);
        }
    }
}

/// An attribute's number, if it is written as one.
fn number(attribute: &Attribute) -> Option<u64> {
    text(&attribute.arguments).trim_matches(['(', ')']).trim_end_matches(['u', 'U']).parse().ok()
}

/// What is wrong with kernels and with function constants.
pub(super) fn check(source: &Text, kernels: &[Kernel], globals: &[Parameter]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut found = |place, rule, text| problems.push(Problem::new(source, place, rule, text));
    let mut names = BTreeMap::new();
    for kernel in kernels {
        kernel.check(&mut found);
        if kernel.is_defined
            && names.insert(&kernel.name, kernel.is_template) == Some(false)
            && !kernel.is_template
        {
            found(
                kernel.place,
                "kernel",
                format!("wants kernels of different names, got two of {}", kernel.name),
            );
        }
    }
    let mut constants = BTreeMap::new();
    for global in globals {
        for attribute in &global.attributes {
            let Some(index) = number(attribute).filter(|_| attribute.name == "function_constant") else {
                continue;
            };
            if let Some(other) = constants.insert(index, &global.name) {
                let name = &global.name;
                let text =
                    format!("wants each function constant's index once, got {index} for {other} and {name}");
                found(attribute.place, "index", text);
            }
        }
    }
    problems
}
