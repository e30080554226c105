//! Which packages a system needs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::error::BootstrapError;
use super::fetch::Listed;

/// How versions of a distribution are ordered.
pub(super) type Compare = fn(&str, &str) -> Ordering;

/// A package by name, and which versions of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) name: String,
    /// `<<`, `<=`, `=`, `>=` or `>>`, and the version.
    pub(super) version: Option<(String, String)>,
}

impl Relation {
    /// Of any version.
    pub(super) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), version: None }
    }

    /// Whether a version will do.
    fn takes(&self, version: &str, compare: Compare) -> bool {
        let Some((operator, wanted)) = &self.version else { return true };
        let order = compare(version, wanted);
        match operator.as_str() {
            "<<" => order == Ordering::Less,
            "<" | "<=" => order != Ordering::Greater,
            "=" => order == Ordering::Equal,
            ">" | ">=" => order != Ordering::Less,
            ">>" => order == Ordering::Greater,
            _ => false,
        }
    }
}

/// One of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) any: Vec<Relation>,
    /// Only where this one is there.
    pub(super) only_if: Option<Relation>,
}

/// A package of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// All of these.
    pub(super) needs: Vec<Need>,
    pub(super) provides: Vec<Relation>,
    /// None of these may be beside it.
    pub(super) conflicts: Vec<Relation>,
    /// Names that are taken first where there is a choice.
    pub(super) prefers: Vec<String>,
    /// Whether every system has it.
    pub(super) always: bool,
    /// Where it is, below the mirror.
    pub(super) path: String,
    pub(super) listed: Listed,
    /// Which source has it.
    pub(super) source: usize,
}

/// All packages that there are: the latest of each name.
#[derive(Debug)]
pub(super) struct Universe {
    compare: Compare,
    packages: BTreeMap<String, Package>,
    /// Names that others provide, and who.
    provided: HashMap<String, Vec<(String, Option<String>)>>,
}

impl Universe {
    pub(super) fn new(compare: Compare) -> Self {
        Self { compare, packages: BTreeMap::new(), provided: HashMap::new() }
    }

    pub(super) fn add(&mut self, package: Package) {
        let known = self.packages.get(&package.name);
        if known.is_some_and(|known| (self.compare)(&known.version, &package.version).is_ge()) {
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

    /// Names that packages need, and that nothing has or provides.
    pub(super) fn unmet(&self, which: impl Fn(&str) -> bool) -> HashSet<String> {
        let needs = self.packages.values().flat_map(|package| &package.needs);
        let relations = needs.flat_map(|need| need.any.iter().chain(&need.only_if));
        let names = relations.map(|relation| relation.name.as_str());
        names.filter(|name| which(name) && !self.meets(name)).map(str::to_owned).collect()
    }

    /// Adds to what the package of this name and checksum provides.
    pub(super) fn provides(&mut self, name: &str, sum: &str, provided: &str) {
        if self.packages.get(name).is_some_and(|package| package.listed.sum == sum) {
            let providers = self.provided.entry(provided.to_owned()).or_default();
            providers.push((name.to_owned(), None));
        }
    }

    /// Whether there is a package of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }

    /// Whether something has or provides a name.
    pub(super) fn meets(&self, name: &str) -> bool {
        self.provider(name).is_some()
    }

    /// The package of a name, or the first that provides it.
    pub(super) fn provider(&self, name: &str) -> Option<&Package> {
        self.candidates(&Relation::of(name)).next()
    }

    /// What meets a relation, the package of that name first.
    fn candidates<'a>(
        &'a self,
        relation: &Relation,
    ) -> impl Iterator<Item = &'a Package> + use<'a> {
        let real = self.packages.get(&relation.name);
        let real = real.filter(|package| relation.takes(&package.version, self.compare));
        let providers = self.provided.get(&relation.name).map(Vec::as_slice).unwrap_or_default();
        // A relation with a version takes provided names with one only.
        let fits = |version: &Option<String>| match version {
            Some(version) => relation.takes(version, self.compare),
            None => relation.version.is_none(),
        };
        let providers = providers.iter().filter(|(_, version)| fits(version));
        let providers = providers.filter_map(|(name, _)| self.packages.get(name));
        real.into_iter().chain(providers.collect::<Vec<_>>())
    }

    /// What every system has, the packages of these names,
    /// and all that they need; what is needed comes before what needs it, where
    /// no circle forbids it.
    pub(super) fn select(&self, names: &[String]) -> Result<Vec<&Package>, BootstrapError> {
        let base = self.packages.values().filter(|package| package.always);
        let mut todo: Vec<&Package> = base.collect();
        for name in names {
            let found = self.provider(name);
            let by = "the recipe".to_owned();
            todo.push(found.ok_or_else(|| BootstrapError::NoPackage { name: name.clone(), by })?);
        }
        let mut chosen: BTreeSet<&str> = todo.iter().map(|p| p.name.as_str()).collect();
        // What is needed only beside something else is looked at again when more
        // is chosen.
        let mut conditional: Vec<(&Package, &Need)> = Vec::new();
        loop {
            while let Some(package) = todo.pop() {
                for need in &package.needs {
                    match &need.only_if {
                        Some(_) => conditional.push((package, need)),
                        None => todo.extend(self.choose(package, need, &mut chosen)?),
                    }
                }
            }
            for (package, need) in &conditional {
                let wanted = need.only_if.as_ref().is_some_and(|r| self.met(r, &chosen));
                if wanted {
                    todo.extend(self.choose(package, need, &mut chosen)?);
                }
            }
            if todo.is_empty() {
                break;
            }
        }
        for package in chosen.iter().filter_map(|name| self.packages.get(*name)) {
            if let Some(other) = self.conflict(package, &chosen) {
                let (name, other) = (package.name.clone(), other.name.clone());
                return Err(BootstrapError::Conflict { name, other });
            }
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in &chosen {
            self.visit(name, &chosen, &mut seen, &mut order);
        }
        Ok(order)
    }

    /// What is chosen and cannot be beside a package.
    fn conflict<'a>(&'a self, package: &Package, chosen: &BTreeSet<&str>) -> Option<&'a Package> {
        let hits = |one: &Package, other: &Package| {
            let mut all = one.conflicts.iter().flat_map(|relation| self.candidates(relation));
            one.name != other.name && all.any(|hit| hit.name == other.name)
        };
        let chosen = chosen.iter().filter_map(|name| self.packages.get(*name));
        let mut chosen =
            chosen.filter(|other| !other.conflicts.is_empty() || !package.conflicts.is_empty());
        chosen.find(|other| hits(package, other) || hits(other, package))
    }

    fn met(&self, relation: &Relation, chosen: &BTreeSet<&str>) -> bool {
        self.candidates(relation).any(|package| chosen.contains(&*package.name))
    }

    /// What is chosen for a need that nothing meets yet.
    fn choose<'a>(
        &'a self,
        package: &Package,
        need: &Need,
        chosen: &mut BTreeSet<&'a str>,
    ) -> Result<Option<&'a Package>, BootstrapError> {
        if need.any.iter().any(|relation| self.met(relation, chosen)) {
            return Ok(None);
        }
        let found = need.any.iter().find_map(|relation| {
            let all: Vec<&Package> = self.candidates(relation).collect();
            let preferred = all.iter().find(|one| package.prefers.contains(&one.name));
            let fits = || all.iter().find(|one| self.conflict(one, chosen).is_none());
            preferred.or_else(fits).or(all.first()).copied()
        });
        let found = found.ok_or_else(|| {
            let name = need.any.first().map(|relation| relation.name.clone()).unwrap_or_default();
            BootstrapError::NoPackage { name, by: package.name.clone() }
        })?;
        chosen.insert(&found.name);
        Ok(Some(found))
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
        let relations = package.needs.iter().flat_map(|need| &need.any);
        let all = relations.flat_map(|relation| self.candidates(relation));
        all.filter(|package| chosen.contains(&*package.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::debian::index::{compare, packages};

    fn universe(text: &str) -> Universe {
        let mut all = Universe::new(compare);
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
        assert_eq!(names(&all, &[]), ["mawk", "gcc", "libc", "base"]);
        // A version is asked for, which mawk does not give.
        assert!(names(&all, &["app"]).contains(&"gawk".to_owned()));
        for (name, by) in [("broken", "broken"), ("nosuch", "the recipe")] {
            let error = all.select(&[name.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(by), "{error}");
        }
    }
}
