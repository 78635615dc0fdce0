package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3" // also registers the driver "sqlite3", which the check opens

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Reasons for refusing a database.
var (
	// ErrCorrupt means that SQLite's quick check found damage.
	ErrCorrupt = errors.New("the database is damaged")
	// ErrEmpty means that the database of an existing cluster holds nothing.
	ErrEmpty = errors.New("the database is empty but this data dir held a cluster")
)

// checkDeadline bounds the quick check, which reads the whole database.
const checkDeadline = time.Minute

func databasePath(l datadir.Layout) string { return l.Server("db", "state.db") }

// markerPath names the file that says that a cluster was once saved here.
func markerPath(l datadir.Layout) string { return l.Server("db", "created") }

// MarkCreated records that the database now holds a cluster, so that an empty
// one found later is refused rather than filled anew.
func (k *Kine) MarkCreated() error {
	if _, err := os.Stat(markerPath(k.layout)); err == nil {
		return nil
	}
	if err := datadir.WriteFile(markerPath(k.layout), []byte("1\n"), 0o600); err != nil {
		return fmt.Errorf("mark database as created: %w", err)
	}
	return nil
}

// dsn is kine's default with an absolute path, the chosen durability and no
// VACUUM at each start.
func dsn(path, durability string) string {
	synchronous := "NORMAL"
	if durability == "strict" {
		synchronous = "FULL"
	}
	params := []string{
		"_journal_mode=WAL", "_busy_timeout=30000", "_synchronous=" + synchronous, "_txlock=immediate",
		"_stmt_cache_size=20", "cache=shared", "_kine_disable_startup_vacuum=true",
	}
	return path + "?" + strings.Join(params, "&")
}

// check refuses a damaged or emptied database. It opens it read-only.
func check(ctx context.Context, layout datadir.Layout) error {
	path := databasePath(layout)
	info, err := os.Stat(path)
	_, markErr := os.Stat(markerPath(layout))
	created := markErr == nil
	switch {
	case errors.Is(err, os.ErrNotExist) && created, err == nil && info.Size() == 0 && created:
		return refuse(path, ErrEmpty)
	case errors.Is(err, os.ErrNotExist), err == nil && info.Size() == 0:
		return nil
	case err != nil:
		return fmt.Errorf("check %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkDeadline)
	defer cancel()
	findings, rows, err := quickCheck(ctx, path)
	switch {
	case damaged(err):
		return refuse(path, fmt.Errorf("%w: %w", ErrCorrupt, err))
	case err != nil:
		return fmt.Errorf("check %s: %w", path, err)
	case findings != "ok":
		return refuse(path, fmt.Errorf("%w: %s", ErrCorrupt, findings))
	case rows == 0 && created:
		return refuse(path, ErrEmpty)
	}
	return nil
}

// quickCheck returns SQLite's first finding ("ok" if none) and whether the
// table holds rows (0 or 1; 0 without a table).
func quickCheck(ctx context.Context, path string) (findings string, rows int, err error) {
	db, err := sql.Open("sqlite3", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro&_query_only=true&_busy_timeout=5000")
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&findings); err != nil {
		return "", 0, err
	}
	if findings != "ok" {
		return findings, 0, nil
	}
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'kine'").Scan(&tables); err != nil {
		return "", 0, err
	}
	if tables == 0 {
		return findings, 0, nil
	}
	err = db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM kine WHERE name NOT IN ('compact_rev_key', '/registry/health'))").Scan(&rows)
	return findings, rows, err
}

// damaged tells what SQLite found in the file from what kept it from looking.
func damaged(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB)
}

func refuse(path string, reason error) error {
	return config.Hinted(fmt.Errorf("check %s: %w", path, reason),
		"nothing was changed; restore "+path+" (with its -wal file) from a backup, or move the data dir's server/ folder aside to start a new cluster")
}
