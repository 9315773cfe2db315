//! What a run came to: on the terminal, as Markdown and as a picture.

use crate::Failure;
use crate::cases::MICROSECONDS;
use crate::chart::{self, Group};
use crate::load::OWN;
use crate::process::Cores;
use crate::site::{Site, place_of_tools};
use crate::table::Table;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// All tables of a run, and where it ran.
pub struct Report {
    machine: String,
    /// Figures of a smoke run are shown, and nothing is said of them.
    is_smoke: bool,
    text: String,
    tables: Vec<Table>,
    noisy: Vec<String>,
}

impl Report {
    pub fn begin(site: &Site, is_smoke: bool) -> Result<Report, Failure> {
        let machine = machine(&site.cores)?;
        println!("{machine}\none dot is one contender in one round");
        Ok(Report { machine, is_smoke, text: String::new(), tables: Vec::new(), noisy: Vec::new() })
    }

    /// A table that means something goes into the report, one that does not is refused: no ratio of it is shown.
    pub fn add(&mut self, table: Table) {
        let mut text = format!("\n### {}\n\n", table.title);
        match table.noise() {
            Some(reason) if !self.is_smoke => {
                text += &format!("Refused, too noisy to mean anything: {reason}.\n");
                self.noisy.push(table.title);
            }
            _ => {
                text += &table.to_string();
                if !self.is_smoke {
                    text += "\n";
                    for verdict in table.verdicts() {
                        text += &format!("- {}\n", verdict.text);
                    }
                }
                self.tables.push(table);
            }
        }
        println!("\n{text}");
        self.text += &text;
    }

    /// Writes both files, and with `publishes` copies them to where the README finds them.
    ///
    /// # Errors
    /// When a case was refused. What could be measured is written nevertheless, but not published.
    pub fn end(self, site: &Site, publishes: bool) -> Result<(), Failure> {
        let place = place_of_tools();
        fs::create_dir_all(&place)?;
        let (markdown, picture) = (place.join("compare.md"), place.join("compare.svg"));
        fs::write(&markdown, self.markdown(site)?)?;
        fs::write(&picture, self.picture())?;
        println!("\n{}\n{}", markdown.display(), picture.display());
        if !self.noisy.is_empty() {
            let noisy = self.noisy.join("; ");
            return Err(format!("too noisy to mean anything: {noisy}. Let the machine rest, or run more rounds").into());
        }
        if publishes && self.is_smoke {
            return Err("a smoke run is not published".into());
        }
        if publishes {
            let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
            fs::copy(&markdown, documents.join("compare.md"))?;
            fs::copy(&picture, documents.join("compare.svg"))?;
        }
        Ok(())
    }

    /// How many goals were met, in words.
    fn summary(&self) -> String {
        let verdicts: Vec<_> = self.tables.iter().flat_map(Table::verdicts).map(|verdict| verdict.is_met).collect();
        let count = |wanted| verdicts.iter().filter(|&&is_met| is_met == wanted).count();
        format!("Goals: {} met, {} missed, {} not measured.", count(Some(true)), count(Some(false)), count(None))
    }

    fn markdown(&self, site: &Site) -> Result<String, Failure> {
        let mut text = String::from("# Side by side\n\nMade by `cargo bench --bench compare`; ");
        text += "how, and how to read it, is in [performance.md](performance.md).\n";
        if self.is_smoke {
            text += "\n**A smoke run: it shows that everything fits together, and its figures mean nothing.**\n";
        }
        writeln!(text, "\n{}, {} afterwards.\n{}.", self.machine, load_average()?, versions(site))?;
        if !self.is_smoke {
            writeln!(text, "\n{}", self.summary())?;
        }
        let left_out = site.left_out();
        if !left_out.is_empty() {
            writeln!(text, "\nNot measured, since missing: {}.", left_out.join(", "))?;
        }
        text += &self.text;
        Ok(text)
    }

    /// Costs of CPU; memory and start times have no anchor that a picture could show.
    fn picture(&self) -> String {
        let groups: Vec<Group<'_>> = self
            .tables
            .iter()
            .filter(|table| table.unit == MICROSECONDS)
            .map(|table| Group { title: &table.title, bars: table.bars() })
            .collect();
        chart::svg(&groups, OWN)
    }
}

/// A run takes minutes.
pub fn progress() -> Result<(), Failure> {
    print!(".");
    Ok(std::io::stdout().flush()?)
}

fn machine(cores: &Cores) -> Result<String, Failure> {
    let count = std::thread::available_parallelism()?;
    let pinned = if cores.are_pinned { "load and backend on core 0, target on core 1" } else { "NOT PINNED" };
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = processor.map_or("", |(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = first_line("date", &["+%F"]).unwrap_or_default();
    Ok(format!(
        "{date}, {count} cores ({processor}), Linux {}, {pinned}, load average {} before",
        kernel.trim(),
        load_average()?
    ))
}

fn versions(site: &Site) -> String {
    let asked = [
        ("nginx", "-v"),
        ("haproxy", "-v"),
        ("caddy", "version"),
        ("apache2", "-v"),
        ("oauth2-proxy", "--version"),
        ("wrk", "-v"),
        ("h2load", "--version"),
        ("openssl", "version"),
    ];
    let said = asked.iter().filter_map(|(program, option)| {
        let version = first_line(site.program(program)?.to_str()?, &[option])?;
        let words: Vec<&str> = version.split_whitespace().take(4).collect();
        Some(format!("{program}: {}", words.join(" ")))
    });
    said.collect::<Vec<_>>().join("; ")
}

/// On whichever of the two outputs it is.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().map(str::to_owned)
}

/// Of the last minute.
fn load_average() -> Result<String, Failure> {
    Ok(fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned())
}
