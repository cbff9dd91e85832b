//! A story as one HTML page: no script, nothing loaded from anywhere. Arguments and names are the attacker's: every string
//! goes through [`text`], and the page's own policy forbids scripts in case one does not.

use super::story::{Story, Verdict};
use super::{svg, text as plain};
use crate::output::{category, escape};
use std::fmt::Write as _;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5b6570;--line:#c9d1d9;--ground:#fff;--bad:#b3261e;--good:#1a7f37;--warn:#9a6700}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa5b1;--line:#3d444d;--ground:#0d1117;--bad:#ff7b72;--good:#56d364;--warn:#e3b341}}
body{margin:2rem auto;max-width:72rem;padding:0 1rem;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground)}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .4rem}p.sub{color:var(--dim);margin:.2rem 0}
ul{margin:.2rem 0;padding-left:1.2rem}li,td{overflow-wrap:anywhere}
.pill{display:inline-block;border:1px solid;border-radius:1rem;padding:0 .6rem;margin-right:.4rem;font-size:.85rem}
.bad{color:var(--bad)}.good{color:var(--good)}.warn{color:var(--warn)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line)}
svg{display:block;font:13px ui-monospace,monospace}svg text{fill:var(--ink)}svg .dim{fill:var(--dim)}
svg .edge{stroke:var(--line);fill:none}svg .bad{fill:var(--bad)}svg .good{fill:var(--good)}svg .node{fill:var(--dim)}
footer{margin-top:2rem;color:var(--dim);font-size:.85rem}";

/// Untrusted text between tags or in a quoted attribute. Control and invisible characters are spelled out as on a terminal.
pub fn text(untrusted: &str) -> String {
    let shown = escape::shown(untrusted);
    let mut out = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The page.
pub fn page(story: &Story) -> String {
    let mut out = head(story);
    for (heading, lines) in plain::sections(story) {
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(out, "<section><h2>{heading}</h2><ul>");
        for line in lines {
            let _ = writeln!(out, "<li>{}</li>", text(line));
        }
        out.push_str("</ul></section>\n");
    }
    let _ =
        writeln!(out, "<section><h2>Processes</h2><div class=\"scroll\">{}</div></section>", svg::tree(&story.tree));
    let _ = writeln!(out, "<section><h2>Timeline</h2><div class=\"scroll\">{}</div>", svg::timeline(&story.timeline));
    table(&mut out, story);
    let _ = write!(
        out,
        "</section>\n<footer>Written by Bulkhead {} from its own rows; times are UTC. What no row tells is said to be \
         unknown.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn head(story: &Story) -> String {
    let class = match story.verdict {
        Verdict::Stopped => "good",
        Verdict::Partly => "warn",
        Verdict::Observed => "bad",
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Incident {id}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p class=\"sub\">Incident {id} on {host}, {began} to {ended}</p>\n\
         <p><span class=\"pill bad\">{severity}</span><span class=\"pill {class}\">{verdict}</span>{techniques}</p>\n",
        id = text(&story.id),
        title = text(&story.title),
        host = text(&story.host),
        began = text(&story.began),
        ended = text(&story.ended),
        severity = category::severity_name(story.severity),
        verdict = plain::verdict(story.verdict),
        techniques =
            story.techniques.iter().map(|t| format!("<span class=\"pill\">{}</span>", text(t))).collect::<String>(),
    )
}

fn table(out: &mut String, story: &Story) {
    out.push_str("<table>\n<tr><th>#</th><th>time</th><th>what</th><th>where</th><th>outcome</th></tr>\n");
    for (number, moment) in story.timeline.iter().enumerate() {
        let class = if moment.stopped { "good" } else { "bad" };
        let finding = moment.finding.as_ref().map_or(String::new(), |id| format!("<br><small>{}</small>", text(id)));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}<br><small>+{} ms</small></td><td><b>{}</b> {}{finding}</td><td>{}</td>\
             <td class=\"{class}\">{}</td></tr>",
            number + 1,
            text(&moment.at),
            moment.offset_ms,
            text(&moment.name),
            text(&moment.text),
            text(&moment.place),
            text(&moment.outcome),
        );
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{samples, story};

    /// Tags that are opened and closed, void ones left out: the page is well formed if they nest.
    fn nests(page: &str) -> bool {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page;
        while let Some((_, after)) = rest.split_once('<') {
            let Some((tag, after)) = after.split_once('>') else { return false };
            rest = after;
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or("");
            let void = tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name);
            match tag.strip_prefix('/') {
                _ if void => {}
                Some(_) if open.pop() != Some(name) => return false,
                Some(_) => {}
                None => open.push(name),
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_page_has_its_parts_and_loads_nothing() {
        let page = page(&story::tell(&samples::chain(), None));
        assert!(nests(&page), "{page}");
        for part in ["What came in, from where", "What was stopped, and when", "Why this is one incident", "Timeline"] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        for loaded in ["<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(loaded), "{loaded}");
        }
        assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    }

    #[test]
    fn nothing_of_the_attackers_becomes_markup() {
        let evil = "<script>alert(1)</script>\"' onload='x' \u{202e}\u{1b}[2J&lt;";
        let page = page(&story::tell(&samples::evil(evil), None));
        assert!(!page.contains("<script") && !page.contains("onload='x'"), "{page}");
        assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("&amp;lt;"));
        assert!(nests(&page), "{page}");
    }
}
