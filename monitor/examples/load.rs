use monitor::kernel::*;
fn main() {
    let obj = std::fs::read("target/bpf/bulkhead.bpf.o").unwrap();
    mounts::tracefs().unwrap();
    let opts = loader::Options { object: &obj, hierarchy: 8, controller: "pids", cgroup_root: std::path::Path::new("/sys/fs/cgroup/unified"),
        config: monitor_common::state::Config { default_enforce: 0, watch_host: 1, self_tgid: std::process::id(), reserved: 0 } };
    let (kernel, rings) = loader::Kernel::load(&opts).unwrap_or_else(|e| { eprintln!("{e}"); let mut s: Option<&dyn std::error::Error> = std::error::Error::source(&e); while let Some(x)=s { eprintln!("  {x}"); s = x.source(); } std::process::exit(1) });
    for s in &kernel.ladder().steps { println!("{:?} {} {:?} {} {}", s.fact, s.program, s.state, s.verified, s.why); }
    println!("{:?}", kernel.ladder().missing_fields);
    let (_e, _l, mut maps) = kernel.split();
    for (n, b) in [("bash", 1|16), ("dash", 1|16), ("python", 2|16)] { maps.set_class(monitor_common::hash::name(n.as_bytes()), b); }
    let d = ring::Drain::start(rings).unwrap();
    let t = std::time::Instant::now();
    while t.elapsed().as_secs() < 6 { if let Ok(e) = d.events.recv_timeout(std::time::Duration::from_millis(200)) { if !matches!(e.body, monitor::event::Body::Fork{..}|monitor::event::Body::Exit{..}) {println!("{e:?}");} } }
    println!("{:?} {:?} {:?}", d.counts, maps.losses(), maps.errors());
}
