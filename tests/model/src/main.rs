//! t
use parallax_model::*;
fn run<M: explorer::Model>(name: &str, model: &M, max: usize, mutant: Option<mutant::Mutant>, show: bool) {
            let t = std::time::Instant::now();
            let o = explorer::explore(model, max);
            println!("{:30} {:40} {:9} depth {:3} exh {} {:?} {:?}", name, mutant.map_or("-", |m: mutant::Mutant| m.name()), o.states, o.depth, o.is_exhausted, o.violation.as_ref().map(|v| (v.property, v.trace.len())), t.elapsed());
            if let Some(v) = &o.violation { if show { for (l, s) in &v.trace { println!("   {l}\n        {s}"); } } }
}
fn main() {
    let mut args = std::env::args().skip(1);
    let max: usize = args.next().map_or(5_000_000, |a| a.parse().unwrap());
    let m = args.next();
    let f = args.next().unwrap_or_default();
    let ms: Vec<Option<mutant::Mutant>> = match m.as_deref() { None | Some("") => vec![None], Some("all") => mutant::Mutant::ALL.iter().map(|m| Some(*m)).collect(), Some(n) => vec![mutant::Mutant::of_name(n)] };
    for mu in ms {
    for scope in record::scopes::SMALL.iter().filter(|s| s.name.contains(&f)) { run(scope.name, &record::Record::new(*scope, mu), max, mu, m.as_deref() != Some("all")); }
    for scope in collection::SMALL.iter().chain(collection::LARGE).filter(|s| s.name.contains(&f)) { run(scope.name, &collection::Collection::new(*scope, mu), max, mu, m.as_deref() != Some("all")); }
    for scope in log::SMALL.iter().chain(log::LARGE).filter(|s| s.name.contains(&f)) { run(scope.name, &log::Log::new(*scope, mu), max, mu, m.as_deref() != Some("all")); }
    for scope in stages::SMALL.iter().chain(stages::LARGE).filter(|s| s.name.contains(&f)) { run(scope.name, &stages::Stages::new(*scope, mu), max, mu, m.as_deref() != Some("all")); }
    for scope in pair::SMALL.iter().chain(pair::LARGE).filter(|s| s.name.contains(&f)) { run(scope.name, &pair::Pair::new(*scope, mu), max, mu, m.as_deref() != Some("all")); }
    }
}
