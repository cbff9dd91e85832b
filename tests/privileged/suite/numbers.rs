//! Files that have a number, or a name, which a downloaded file had before.

use crate::container::Container;
use crate::lab::Peer;
use crate::shared;
use anyhow::{Context as _, Result, ensure};
use std::collections::HashSet;
use std::fs;

/// Files that are made.
const FILES: usize = 40;
/// Containers after one another, until a file system has the device number of the one before.
const ROUNDS: usize = 6;
/// Writes files as a process that has a connection: all of them are marked.
const MARKS: &str = r##"use Socket; mkdir "/tmp/marks";
socket(S, PF_INET, SOCK_DGRAM, 0) and connect(S, pack_sockaddr_in(9, inet_aton("127.0.0.1"))) or die;
for my $i (1..@FILES@) { open(F, ">", "/tmp/marks/$i") or die; print F "#!/bin/sh\n"; }"##;

/// Opens the file for a download long before it comes.
const LATE: &str = r#"use IO::Socket::INET;
my $s = IO::Socket::INET->new("127.0.0.1:@PORT@") or die;
open(F, ">", "/tmp/late.sh"); open(O, ">", "/tmp/opened"); close(O);
select(undef, undef, undef, 0.05) until -e "/tmp/emptied";
print $s "GET / HTTP/1.0\r\n\r\n"; $s->flush;
local $/; my $text = <$s>; $text =~ s/.*\r\n\r\n//s; print F $text;"#;

/// (device of the root file system, inode number) of every file of a folder.
fn numbers(container: &Container, folder: &str) -> Result<HashSet<(String, String)>> {
    let ended = container.run(&format!(
        "while read -r a b device c place rest; do [ $place = / ] && echo $device; done < /proc/self/mountinfo \
         > /tmp/numbers; stat -c %i {folder}/* >> /tmp/numbers"
    ))?;
    ensure!(ended.success(), "stat {folder}: {ended}");
    let text = fs::read_to_string(container.path("/tmp/numbers"))?;
    let mut lines = text.lines();
    let device = lines.next().context("no root in mountinfo")?;
    Ok(lines.map(|number| (device.to_owned(), number.to_owned())).collect())
}

/// What the host puts into a container may have the numbers that downloads in another one had, whose file system is gone
/// since; what is in the image may have those that its own upper layer gives.
pub fn a_number_used_again_bears_no_mark() -> Result<()> {
    let watch = shared::watch("protect")?;
    let marks = MARKS.replace("@FILES@", &FILES.to_string());
    for _ in 0..ROUNDS {
        let before = {
            let marked = Container::start(&watch.group)?;
            fs::write(marked.path("/tmp/marks.pl"), &marks)?;
            let ended = marked.run("perl /tmp/marks.pl")?;
            ensure!(ended.success(), "the marks were not made: {ended}");
            marked.run("sh /tmp/marks/1")?;
            watch.daemon.await_alert("download_exec", marked.id())?;
            numbers(&marked, "/tmp/marks")?
        };
        let honest = Container::start(&watch.group)?;
        fs::create_dir(honest.path("/tmp/own"))?;
        for number in 1..=FILES {
            fs::write(honest.path(&format!("/tmp/own/{number}")), "touch /tmp/ran-${0##*/}\n")?;
        }
        if numbers(&honest, "/tmp/own")?.is_disjoint(&before) {
            continue;
        }
        honest.run("for file in /tmp/own/*; do sh $file; done")?;
        let ran = |number: &usize| honest.path(&format!("/tmp/ran-{number}")).exists();
        ensure!((1..=FILES).all(|number| ran(&number)), "an honest file was taken for a download");
        let alerts = watch.daemon.alerts("download_exec", honest.id());
        ensure!(alerts.is_empty(), "{}", alerts[0]["message"]);
        return Ok(());
    }
    anyhow::bail!("no number was used again in {ROUNDS} rounds: nothing was tested")
}

/// A download that something without a connection has written over is none any more, whoever wrote it.
pub fn what_is_written_over_bears_no_mark() -> Result<()> {
    let watch = shared::watch("protect")?;
    let container = Container::start(&watch.group)?;
    let web = Peer::web(container.listen()?, "#!/bin/sh\ntouch /tmp/ran\n")?;
    let fetch = format!("curl -s -o /tmp/x.sh http://127.0.0.1:{}/x.sh", web.port);
    let ended = container.run(&format!("{fetch}; echo 'touch /tmp/own' > /tmp/x.sh; sh /tmp/x.sh"))?;
    ensure!(ended.success() && container.path("/tmp/own").exists(), "what was written over it did not run: {ended}");
    ensure!(watch.daemon.alerts("download_exec", container.id()).is_empty(), "and is told of");
    // Whoever downloads has it open meanwhile: what is to come is a download all the same.
    fs::write(container.path("/tmp/late.pl"), LATE.replace("@PORT@", &web.port.to_string()))?;
    container.run(
        "perl /tmp/late.pl & until [ -e /tmp/opened ]; do sleep 0.05; done; : > /tmp/late.sh; : > /tmp/emptied; wait; \
         grep -q ran /tmp/late.sh && touch /tmp/came; sh /tmp/late.sh",
    )?;
    ensure!(container.path("/tmp/came").exists(), "nothing was downloaded");
    ensure!(!container.path("/tmp/ran").exists(), "a download that was emptied before it came ran");
    // Its own text appended leaves the download in it.
    container.run(&format!("{fetch}; echo true >> /tmp/x.sh; sh /tmp/x.sh"))?;
    watch.daemon.await_alert("download_exec", container.id())?;
    ensure!(!container.path("/tmp/ran").exists(), "what was downloaded ran");
    Ok(())
}
