//! Which packages a system needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::BootstrapError;
use super::index::{Package, Relation, compare};

/// All packages that there are: the latest of each name.
#[derive(Debug, Default)]
pub(super) struct Universe {
    packages: BTreeMap<String, Package>,
    /// Names that others provide, and who.
    provided: HashMap<String, Vec<(String, Option<String>)>>,
}

impl Universe {
    pub(super) fn add(&mut self, package: Package) {
        let known = self.packages.get(&package.name);
        if known.is_some_and(|known| compare(&known.version, &package.version).is_ge()) {
            return;
        }
        self.packages.insert(package.name.clone(), package);
    }

    /// To be called when all are there.
    pub(super) fn complete(&mut self) {
        for package in self.packages.values() {
            for provided in &package.provides {
                let version = provided.version.as_ref().map(|(_, version)| version.clone());
                let providers = self.provided.entry(provided.name.clone()).or_default();
                providers.push((package.name.clone(), version));
            }
        }
    }

    /// Whether there is a package of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }

    /// What meets a relation, the package of that name first.
    fn candidates<'a>(
        &'a self,
        relation: &Relation,
    ) -> impl Iterator<Item = &'a Package> + use<'a> {
        let real = self.packages.get(&relation.name);
        let real = real.filter(|package| relation.takes(&package.version));
        let providers = self.provided.get(&relation.name).map(Vec::as_slice).unwrap_or_default();
        // A relation with a version takes provided names with one only.
        let fits = |version: &Option<String>| match version {
            Some(version) => relation.takes(version),
            None => relation.version.is_none(),
        };
        let providers = providers.iter().filter(|(_, version)| fits(version));
        let providers = providers.filter_map(|(name, _)| self.packages.get(name));
        real.into_iter().chain(providers.collect::<Vec<_>>())
    }

    /// Everything that is essential or required, the packages of these names,
    /// and all that they need; what is needed comes before what needs it, where
    /// no circle forbids it.
    pub(super) fn select(&self, names: &[String]) -> Result<Vec<&Package>, BootstrapError> {
        let base = self.packages.values().filter(|p| p.essential || p.required);
        let mut todo: Vec<&Package> = base.collect();
        for name in names {
            let relation = Relation { name: name.clone(), version: None };
            let found = self.candidates(&relation).next();
            let by = "the recipe".to_owned();
            todo.push(found.ok_or_else(|| BootstrapError::NoPackage { name: name.clone(), by })?);
        }
        let mut chosen: BTreeSet<&str> = todo.iter().map(|p| p.name.as_str()).collect();
        while let Some(package) = todo.pop() {
            for group in &package.needs {
                let met = |r: &Relation| self.candidates(r).any(|p| chosen.contains(&*p.name));
                if group.iter().any(met) {
                    continue;
                }
                let found = group.iter().find_map(|relation| self.candidates(relation).next());
                let found = found.ok_or_else(|| {
                    let name = group.first().map(|r| r.name.clone()).unwrap_or_default();
                    BootstrapError::NoPackage { name, by: package.name.clone() }
                })?;
                chosen.insert(&found.name);
                todo.push(found);
            }
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in &chosen {
            self.visit(name, &chosen, &mut seen, &mut order);
        }
        Ok(order)
    }

    /// Depth first, without recursion: a chain of dependencies has any length.
    fn visit<'a>(
        &'a self,
        name: &str,
        chosen: &BTreeSet<&str>,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a Package>,
    ) {
        let Some(first) = self.packages.get(name).filter(|p| seen.insert(&p.name)) else { return };
        let mut stack = vec![(first, self.needed(first, chosen))];
        while let Some((package, needs)) = stack.last_mut() {
            match needs.pop() {
                Some(next) if seen.insert(&next.name) => {
                    stack.push((next, self.needed(next, chosen)));
                }
                Some(_) => {}
                None => {
                    order.push(package);
                    stack.pop();
                }
            }
        }
    }

    fn needed<'a>(&'a self, package: &'a Package, chosen: &BTreeSet<&str>) -> Vec<&'a Package> {
        let groups = package.needs.iter().flatten();
        let all = groups.flat_map(|relation| self.candidates(relation));
        all.filter(|package| chosen.contains(&*package.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::index::packages;

    fn universe(text: &str) -> Universe {
        let mut all = Universe::default();
        let sum = "0".repeat(64);
        for paragraph in text.split("\n\n") {
            let whole = format!("{paragraph}\nFilename: x\nSize: 1\nSHA256: {sum}\n");
            packages(whole.as_bytes(), 0, &mut |p| all.add(p)).unwrap();
        }
        all.complete();
        all
    }

    fn names(all: &Universe, wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        all.select(&wanted).unwrap().iter().map(|p| p.name.clone()).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_choices_are_kept() {
        let all = universe(
            "Package: base\nVersion: 1\nEssential: yes\nDepends: libc, mawk | awk\n\n\
             Package: libc\nVersion: 2\nPriority: required\nDepends: gcc\n\n\
             Package: gcc\nVersion: 1\nDepends: libc\n\n\
             Package: mawk\nVersion: 1\nProvides: awk\n\n\
             Package: gawk\nVersion: 1\nProvides: awk (= 5)\n\n\
             Package: app\nVersion: 1\nDepends: awk (>= 4), lib (>= 2)\n\n\
             Package: lib\nVersion: 1\n\nPackage: lib\nVersion: 2\n\n\
             Package: broken\nVersion: 1\nDepends: lib (>= 3)",
        );
        assert_eq!(names(&all, &[]), ["gcc", "libc", "mawk", "base"]);
        // A version is asked for, which mawk does not give.
        assert!(names(&all, &["app"]).contains(&"gawk".to_owned()));
        for (name, by) in [("broken", "broken"), ("nosuch", "the recipe")] {
            let error = all.select(&[name.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(by), "{error}");
        }
    }
}
