// Package bench measures: recipients a second, time to the first call, queries
// and Temporal events per 1,000 recipients, processor time and memory.
//
// It runs the real binary as server and worker, with a PostgreSQL and a Temporal
// of its own that end with it, against a sink in its own process. It measures and
// never judges: figures in the documentation come from here, and tests never ask how fast
// something was.
package bench
