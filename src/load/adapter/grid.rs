//! The modules of an adapter as configurations choose them: some names in each of some layers.

use std::collections::BTreeSet;

use super::TargetModules;

/// Modules that are the same in each of their layers.
pub(super) struct Grid {
    /// Sorted.
    pub layers: Vec<usize>,
    /// Paths in a layer, `self_attn.q_proj`, sorted.
    pub names: Vec<String>,
}

impl Grid {
    /// `None` if layers differ, or modules are in no layer.
    pub fn of<'a>(modules: impl Iterator<Item = &'a String>) -> Option<Self> {
        let parts: Vec<_> = modules.map(|module| split(module)).collect::<Option<_>>()?;
        let prefix = parts.first()?.0;
        let layers: BTreeSet<usize> = parts.iter().map(|part| part.1).collect();
        let names: BTreeSet<&str> = parts.iter().map(|part| part.2).collect();
        // The paths are distinct, so that as many as there are places means one in each.
        let full = parts.len() == layers.len() * names.len() && parts.iter().all(|part| part.0 == prefix);
        full.then(|| Grid {
            layers: layers.into_iter().collect(),
            names: names.into_iter().map(str::to_string).collect(),
        })
    }
}

/// The list of layers, the layer and the path in it: `model.layers`, 0, `self_attn.q_proj`.
pub(super) fn split(module: &str) -> Option<(&str, usize, &str)> {
    let mut at = 0;
    for part in module.split('.') {
        if let (Ok(layer), true) = (part.parse(), at > 0) {
            let name = module.get(at + part.len() + 1..)?;
            return Some((&module[..at - 1], layer, name));
        }
        at += part.len() + 1;
    }
    None
}

/// The modules in PEFT's terms: `target_modules`, and `layers_to_transform` where they are not the layers from the
/// first, or `by_layer` says that the model may have more of them.
pub(super) fn choice<'a>(
    modules: impl Iterator<Item = &'a String> + Clone,
    by_layer: bool,
) -> (TargetModules, Option<Vec<usize>>) {
    let Some(grid) = Grid::of(modules.clone()) else {
        return (TargetModules::Names(modules.cloned().collect()), None);
    };
    let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_string();
    let names: BTreeSet<String> = grid.names.iter().map(last).collect();
    let gaps = grid.layers.iter().enumerate().any(|(i, layer)| i != *layer);
    (TargetModules::Names(names.into_iter().collect()), (gaps || by_layer).then_some(grid.layers))
}
