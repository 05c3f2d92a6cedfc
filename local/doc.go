// Package local starts what Fanfare needs on this machine: PostgreSQL, the
// Temporal development server and child processes, for `fanfare dev`, the
// benchmarks and the end-to-end tests.
//
// It owns those processes, their folders, ports and settings. It never touches a
// server that it did not start, and never installs anything: what is missing is
// reported as a [MissingError] with the line that installs it.
//
// It promises that
//
//   - a second start over the same folder finds everything as the first left it,
//     also when the first was killed at any moment;
//   - two owners of one folder are refused, by a lock that dies with its owner;
//   - what it started ends with it. On Linux the kernel sees to that even when
//     this process is killed with -9. Elsewhere a server can outlive such a kill;
//     PostgreSQL is then found and stopped at the next start.
//
// A port of 0 always means: a free one.
package local
