//! The tools, and the commands with which their applications are migrated and checked.

/// A migration tool and ORM, with its application in `tests/orms`.
#[derive(Debug)]
pub struct Tool {
    /// Name of the directory in `tests/orms`.
    pub name: &'static str,
    /// File that pins the versions, and the packages that the table shows.
    pub lock: &'static str,
    pub packages: &'static [&'static str],
    /// Applies the migrations that precede the adoption.
    pub first: &'static [&'static str],
    /// Applies the later migrations.
    pub later: &'static [&'static str],
    pub drift: Drift,
    /// Runs a step of the application's checks; the name of the step is appended.
    pub app: &'static [&'static str],
    /// Whether the packages exist for Debian only. Elsewhere `make orms` leaves the tool out.
    pub is_from_debian: bool,
}

/// How the tool compares its models with the database.
#[derive(Debug)]
pub enum Drift {
    /// The command fails if the database and the models differ.
    Database { check: &'static [&'static str] },
    /// The tool compares its models with a snapshot of its own, never with the database.
    Snapshot {
        check: &'static [&'static str],
        /// Output of the command if they are equal.
        equal: &'static str,
        /// A change of the models, after which they are not.
        change: Change,
    },
    /// The models have Warden's objects, because the tool has read them from the database.
    Pulled {
        /// Reads the models and compares them.
        check: &'static [&'static str],
        /// Compares the models that were read before.
        again: &'static [&'static str],
        /// Output of both commands if models and database are equal.
        equal: &'static str,
    },
}

/// A line that is added to a file of the application.
#[derive(Debug)]
pub struct Change {
    pub file: &'static str,
    pub before: &'static str,
    pub line: &'static str,
}

pub static ALL: &[&Tool] = &[&SQLALCHEMY, &DRIZZLE, &DJANGO, &PRISMA, &RAILS];

pub static SQLALCHEMY: Tool = Tool {
    name: "sqlalchemy",
    lock: "requirements.txt",
    packages: &["sqlalchemy", "alembic"],
    first: &["venv/bin/alembic", "upgrade", "0001"],
    later: &["venv/bin/alembic", "upgrade", "head"],
    drift: Drift::Database { check: &["venv/bin/alembic", "check"] },
    app: &["venv/bin/python", "app.py"],
    is_from_debian: false,
};

pub static DRIZZLE: Tool = Tool {
    name: "drizzle",
    lock: "package.json",
    packages: &["drizzle-orm", "drizzle-kit"],
    first: &["node", "before_adoption.js"],
    later: &["node_modules/.bin/drizzle-kit", "migrate"],
    drift: Drift::Snapshot {
        check: &["node_modules/.bin/drizzle-kit", "generate"],
        equal: "No schema changes",
        change: Change { file: "schema.js", before: "  body: text", line: "  stray: integer()," },
    },
    app: &["node", "app.js"],
    is_from_debian: false,
};

pub static DJANGO: Tool = Tool {
    name: "django",
    lock: "requirements.txt",
    packages: &["django"],
    first: &["venv/bin/python", "manage.py", "migrate", "shop", "0001"],
    later: &["venv/bin/python", "manage.py", "migrate"],
    drift: Drift::Snapshot {
        check: &["venv/bin/python", "manage.py", "makemigrations", "--check", "--dry-run"],
        equal: "No changes detected",
        change: Change {
            file: "shop/models.py",
            before: "    body = ",
            line: "    stray = models.IntegerField(default=0)",
        },
    },
    app: &["venv/bin/python", "app.py"],
    is_from_debian: false,
};

pub static PRISMA: Tool = Tool {
    name: "prisma",
    lock: "package.json",
    packages: &["prisma"],
    first: &["node", "before_adoption.js"],
    later: &["node_modules/.bin/prisma", "migrate", "deploy"],
    drift: Drift::Pulled {
        check: &["node", "drift.js"],
        again: &["node", "drift.js", "--without-pull"],
        equal: "The database is already in sync with the Prisma schema",
    },
    app: &["node", "app.js"],
    is_from_debian: false,
};

pub static RAILS: Tool = Tool {
    name: "rails",
    lock: "packages.txt",
    packages: &["ruby-activerecord"],
    first: &["ruby", "migrate.rb", "20260101000001"],
    later: &["ruby", "migrate.rb"],
    drift: Drift::Database { check: &["ruby", "dump.rb", "--check"] },
    app: &["ruby", "app.rb"],
    is_from_debian: true,
};
