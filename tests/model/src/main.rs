//! t
use parallax_model::*;
fn main() {
    let mut args = std::env::args().skip(1);
    let max: usize = args.next().map_or(5_000_000, |a| a.parse().unwrap());
    let m = args.next();
    let f = args.next().unwrap_or_default();
    for scope in record::scopes::SMALL.iter().filter(|s| s.name.contains(&f)) {
        let run = |mutant| {
            let t = std::time::Instant::now();
            let o = explorer::explore(&record::Record::new(*scope, mutant), max);
            println!(
                "{:30} {:40} {:9} depth {:3} exh {} {:?} {:?}",
                scope.name,
                mutant.map_or("-", |m: mutant::Mutant| m.name()),
                o.states,
                o.depth,
                o.is_exhausted,
                o.violation.as_ref().map(|v| (v.property, v.trace.len())),
                t.elapsed()
            );
            if let Some(v) = &o.violation {
                if mutant.is_none() || m.as_deref() == mutant.map(|m| m.name()) {
                    for (l, s) in &v.trace {
                        println!("   {l}\n        {s}");
                    }
                }
            }
        };
        match m.as_deref() {
            None => run(None),
            Some("all") => {
                for m in mutant::Mutant::ALL {
                    run(Some(*m))
                }
            }
            Some(n) => run(mutant::Mutant::of_name(n)),
        }
    }
}
