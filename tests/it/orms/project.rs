//! An application of `tests/orms` whose packages are installed in `target/orms`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::tools::{Change, Tool};

/// Deadline of one command of a tool, generous enough for a busy machine.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// A copy of the application's files beside its packages. Tools write into their project's directory, so the
/// repository itself is not used.
#[derive(Debug)]
pub struct Project {
    tool: &'static Tool,
    dir: PathBuf,
}

/// Exit status and output of a finished command.
#[derive(Debug)]
pub struct Outcome {
    pub is_success: bool,
    pub output: String,
}

impl Outcome {
    /// Asserts that the output contains a text.
    pub fn says(&self, text: &str) {
        assert!(self.output.contains(text), "{}", self.output);
    }
}

impl Project {
    /// Copies the application. Panics if its packages are not installed in these versions.
    pub fn copy(tool: &'static Tool) -> Self {
        let (source, dir) = (source(tool), root().join("target/orms").join(tool.name));
        assert!(
            Self::is_installed(tool),
            "the packages of tests/orms/{0} are not installed: run `scripts/setup orms {0}` (`make test` does)",
            tool.name
        );
        copy(&source, &dir);
        Self { tool, dir }
    }

    /// Whether the packages of the application are installed in the versions that it pins.
    pub fn is_installed(tool: &Tool) -> bool {
        let installed = fs::read(root().join("target/orms").join(tool.name).join("installed"));
        installed
            .is_ok_and(|lock| lock == fs::read(source(tool).join(tool.lock)).expect("names its packages"))
    }

    /// Runs a command of the tool in the project's directory.
    pub async fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let program = self.dir.join(args[0]);
        let mut command = if program.is_file() { Command::new(program) } else { Command::new(args[0]) };
        command.args(&args[1..]).current_dir(&self.dir).envs(variables.iter().copied());
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("CI", "true").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_DEADLINE, command.output())
            .await
            .unwrap_or_else(|_| panic!("{}: {args:?} takes longer than {COMMAND_DEADLINE:?}", self.tool.name))
            .unwrap_or_else(|e| panic!("{}: {args:?}: {e}", self.tool.name));
        let text = [output.stdout, output.stderr].concat();
        Outcome { is_success: output.status.success(), output: String::from_utf8_lossy(&text).into_owned() }
    }

    /// Changes a file of the application, and returns its former text.
    pub fn change(&self, change: &Change) -> String {
        let Change { file, before, line } = change;
        let original = fs::read_to_string(self.dir.join(file)).expect("is text");
        assert!(original.contains(before), "{file}: {original}");
        let changed = original.replacen(before, &format!("{line}\n{before}"), 1);
        fs::write(self.dir.join(file), changed).expect("can be written");
        original
    }

    pub fn restore(&self, change: &Change, original: &str) {
        fs::write(self.dir.join(change.file), original).expect("can be written");
    }

    /// Versions of the tool's packages, from the file that pins them.
    pub fn versions(&self) -> String {
        let lock = fs::read_to_string(source(self.tool).join(self.tool.lock)).expect("is text");
        let version = |package: &&str| {
            let line = lock.lines().find(|line| names(line, package)).expect("the package is pinned");
            let digits =
                line.rsplit(['=', '"', ' ']).find(|part| part.starts_with(|c: char| c.is_ascii_digit()));
            format!("{package} {}", digits.expect("the line has a version"))
        };
        self.tool.packages.iter().map(version).collect::<Vec<_>>().join(", ")
    }
}

/// Whether this line of a list of packages names a package, and not one whose name merely contains it.
fn names(line: &str, package: &str) -> bool {
    line.trim_start()
        .trim_start_matches('"')
        .strip_prefix(package)
        .is_some_and(|rest| rest.starts_with(['=', '"', '[', ' ']))
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(tool: &Tool) -> PathBuf {
    root().join("tests/orms").join(tool.name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the directory can be created");
    for entry in fs::read_dir(from).expect("is a directory") {
        let entry = entry.expect("can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("has a type").is_dir() {
            // A run may have left files behind that belong to no application.
            let _ = fs::remove_dir_all(&target);
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("can be copied");
        }
    }
}
