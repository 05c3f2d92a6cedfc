/*
 * One delivery, and everybody who touches it: a model of Fanfare's protocol for spin.
 * Read it beside the Go code. Each step names the function it stands for; one
 * transaction of the ledger is one atomic step. README.md says which properties are
 * checked, what is assumed and what is left out.
 *
 * Between any two steps anybody may stall for as long as they like: spin tries all
 * orders. A worker may also crash between any two steps; it starts again empty.
 */

#ifndef PROPERTY
#define PROPERTY 0 /* the number of the one that is checked */
#endif
#ifndef CALLS
#define CALLS 3    /* how often the delivery is claimed in one run, at most */
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef RECONCILERS
#define RECONCILERS 1
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef PAUSES
#define PAUSES 0
#endif
#ifndef REOPENS
#define REOPENS 0  /* resets of the batch, and replays */
#endif
#ifdef HOLD        /* FANFARE_DOUBT_EMAIL */
#define RESEND false
#else
#define RESEND true
#endif

#define CHECK(n, what) assert(PROPERTY != n || (what))

/* docs/architecture.md, section 3. held is dead with the reason doubt_held. */
mtype:state = { pending, sending, in_doubt, sent, failed, skipped, dead, held }
/* docs/architecture.md, section 4: as far as a claim can tell. */
mtype:publication = { running, paused, cancelled, expired }
/* outcome.go. To the ledger, unavailable is as released. */
mtype:outcome = { released, throttled, rejected, accepted, ambiguous, none }

/* The spans of a lease, one behind the other. The worker reads its clock before it
 * claims, so it is late by its own clock before the ledger's begin_by has passed. */
#define MAY_BEGIN 0 /* lease.go: the worker may write the request */
#define TOO_LATE  1 /* by the worker's clock */
#define QUIET     2 /* ledger/gate.go: begin_by and quietMargin have passed */
#define LAPSED    3 /* ledger/settle.go: call_until and lapseMargin have passed */

typedef Call {                        /* a row of calls, and what the provider has of it */
	mtype:outcome outcome = none; /* what the ledger was told */
	bool policy;                  /* its record says: no evidence by the deadline */
	byte span;                    /* of its lease */
	bool checked;                 /* MayBegin was passed, and no byte written yet */
	bool underway;                /* it was written: the provider may accept it, at any time */
	bool got;                     /* the provider accepted it */
#ifdef LOOK_UP
	bool shown;                   /* the look-up shows it */
	bool before;                  /* it was accepted before the witness was */
	bool after                    /* it had ended before the witness was claimed */
#endif
}

Call call[CALLS];
byte claims;                 /* calls claimed so far */

mtype:publication publication = running;
bool stopping;               /* a cancel or a pause waits to be answered */
bool answered;               /* it was answered, and nothing resumed since */

mtype:state state = pending; /* the delivery's row */
byte holder;                 /* its call_id */
bool resends;

bool resent;                 /* sent again without evidence, by policy */
byte replayed;               /* and by a person, by name: each time */
bool known;                  /* the ledger was told of an acceptance */
#ifdef LOOK_UP
bool witness, witness_shown; /* the provider accepted a call to somebody else; and shows it */
#endif

#include "calls.h"

#define ended        (state == sent || state == failed || state == skipped || state == dead || state == held)
#define given_up     (state == pending || state == dead || state == held)
#define stopped      (publication == cancelled || publication == expired)
#define doubt(c)     (c < claims && call[c].outcome == ambiguous && !call[c].policy) /* a row in doubts */
#define got(c)       (call[c].got)
#define got_unmarked(c) (call[c].got && !call[c].policy)
#define told(c)      (call[c].outcome == accepted)

#if PROPERTY == 2
#define not_any_more stopped
#else
#define not_any_more true /* stopped, unsubscribed, suppressed, ... */
#endif

/* What the steps ask. With -D..., mistakes.h makes one of these wrong. */
#define holds(c)       (holder == c)
#define may_settle(c, result, proof) (call[c].outcome == none \
	|| (call[c].outcome == ambiguous && result != ambiguous) || (proof && call[c].outcome != accepted))
#define may_move(result) (state == sending || state == in_doubt || (result == accepted && given_up))
#define proven(result, proof) (how_many(told) > 0)
#define lapsed(c)      (call[c].span == LAPSED)
#define lost           ambiguous /* what becomes of a lost worker's call */
#define not_sent_to    (resends -> held : skipped)
#define may_begin(c)   (call[c].span == MAY_BEGIN)
#define in_window(c)   (call[c].span == TOO_LATE && call[c].checked)
#define quiet(c)       (c >= claims || call[c].outcome != none || call[c].span >= QUIET)
#define must_wait      (beside && !witness_shown && !stopped) /* for the witness */
#define looks_again    true
#define may_resend     (RESEND && !stopped && !resends)
#define counts_held    true
#define keeps_resends  true
#include "mistakes.h"

/* The row moves because of what is known of call c. */
inline move(c, to) {
	CHECK(4, state != sending || holder == c);
	state = to
}

/* ledger/settle.go: Settle. proof: a look-up or an event says so, not the call's own answer. */
inline settle(c, result, proof) {
	if
	:: may_settle(c, result, proof) ->
		/* On a call's own record, one refusal is as good as another. */
		call[c].outcome = (result == accepted || result == ambiguous -> result : released);
		if
		:: holds(c) && may_move(result) ->
			if
			:: result == accepted  -> move(c, sent)
			:: result == rejected  -> move(c, failed)
			:: result == ambiguous -> move(c, in_doubt)
			:: result == released  -> move(c, pending)
			:: result == throttled -> move(c, pending)
			:: result == throttled -> move(c, dead) /* the ladder of waits has an end, wherever */
			fi
		:: else
		fi
	:: else
	fi;
	known = (known || result == accepted);
	if /* proveSQL. Of whom an earlier call was accepted, nobody goes on waiting. */
	:: (given_up || state == in_doubt) && proven(result, proof) -> state = sent
	:: else
	fi
}

/* activities/send.go: Send. Two at once, because Temporal starts another when it
 * has not heard of the first for a while. */
active [WORKERS] proctype Worker() {
	byte c;
	mtype:outcome result = none;
	bool looked;

#define FORGET c = 0; result = none
#define MAY_CRASH :: d_step { call[c].checked = false; FORGET }; goto idle

idle:	do
	/* ledger/settle.go: DoubtLapsed. */
#define DOUBT(n) :: atomic { n < claims && call[n].outcome == none && lapsed(n) -> settle(n, lost, false) }
	each_call(DOUBT)

	/* ledger/finish.go: CloseBatch; or ledger/claim.go: something speaks against it by
	 * now. Who may have been sent to is not skipped: that would be a guess. */
	:: d_step { state == pending && not_any_more -> state = not_sent_to }

	/* ledger/claim.go: ClaimNew, ClaimDue. The lock of the gate makes one step of
	 * looking at the publication and writing the claim. */
#ifdef NO_GATE
	:: publication == running && !looked -> looked = true
	:: d_step { looked && state == pending && claims < CALLS -> looked = false;
#else
	:: d_step { publication == running && state == pending && claims < CALLS ->
#endif
		CHECK(6, !known);
		c = claims;
		claims++;
		state = sending;
		holder = c } -> break
	od;

	/* lease.go: MayBegin, the last time before the body goes out. */
	if
	:: d_step { may_begin(c) -> call[c].checked = true }
	:: d_step { !may_begin(c) -> result = released }; goto settling
	MAY_CRASH
	fi;

	/* providers/: Send. */
	if
	:: d_step { call[c].checked = false; call[c].underway = true; CHECK(3, !answered) }
	:: d_step { call[c].checked = false; result = released }; goto settling /* not to be reached */
	MAY_CRASH
	fi;
	if
	:: call[c].got -> result = accepted
	:: d_step { call[c].underway -> call[c].underway = false; result = rejected }
	:: d_step { call[c].underway -> call[c].underway = false; result = throttled }
	:: result = ambiguous /* cut, or call_until has come */
	MAY_CRASH
	fi;

settling: /* activities/send.go: settle. Where its answer was lost, it is tried again. */
	if
	:: atomic { settle(c, result, false);
		if
		:: FORGET; goto idle
#if PROPERTY != 2
		:: goto settling
#endif
		fi }
	MAY_CRASH
	fi
}

/* activities/reconcile.go: Reconcile. Looks that show nothing before the deadline
 * change nothing: these here are the others. A crash is no more than a stall. */
#ifdef LOOK_UP
#define shows(c) (call[c].shown)
#define hides(c) (!call[c].shown)
#else
#define shows(c) (call[c].got)
#define hides(c) true /* not accepted, or not shown yet */
#endif

active [RECONCILERS] proctype Reconciler() {
	byte c;
	bool beside; /* there is a witness */

next:	if /* ledger/doubt.go: Doubts */
#ifdef LOOK_UP
#define READ(n) :: d_step { doubt(n) -> c = n; beside = witness }
#else
#define READ(n) :: d_step { doubt(n) -> c = n }
#endif
	each_call(READ)
	fi;
	if /* reconcile. Only presence is evidence. */
	:: shows(c) -> goto evidence
	:: hides(c)
	fi;
#ifdef LOOK_UP
	if /* decideWithout. Absence means nothing before the witness is shown. Where nobody
	    * is sent to any more, nothing is risked by an end. */
	:: d_step { must_wait -> c = 0; beside = false }; goto next /* LookAgain */
	:: !must_wait
	fi;
	if /* The call may have come into view since it was looked for. */
	:: looks_again && shows(c) -> goto evidence
	:: !looks_again || hides(c)
	fi;
#endif
	d_step { /* ledger/doubt.go: ApplyPolicy */
		if
		:: doubt(c) ->
			call[c].policy = true;
			if
			:: holder == c && state == in_doubt && may_resend ->
#ifdef LOOK_UP
				CHECK(7, !(beside && call[c].after && call[c].got));
#endif
				CHECK(1, !resent);
				state = pending;
				resends = true;
				resent = true
			:: holder == c && state == in_doubt && !may_resend ->
				state = held
			:: else
			fi
		:: else
		fi;
		c = 0;
		beside = false
	};
	goto next;
evidence:
	atomic { settle(c, accepted, true); c = 0; beside = false };
	goto next
}

/* The provider, and its events. None of this has to happen. */
#if PROPERTY == 7
#define in_time(n) (call[n].outcome == none && call[n].span < LAPSED)
#else
#define in_time(n) true /* it may accept long after the caller has gone */
#endif

active proctype Provider() {
	do
#define ACCEPT(n) :: d_step { call[n].underway && in_time(n) -> call[n].underway = false; call[n].got = true; \
		CHECK(1, how_many(got) <= 1 + resent + replayed); CHECK(5, how_many(got_unmarked) <= 1); CHECK(8, state != skipped) }
	each_call(ACCEPT)
	/* ledger/events.go: ApplyEvents, early, late, often or never. While a later call
	 * is under way the event waits. */
#define EVENT(n) :: atomic { call[n].got && (state != sending || holder == n) -> settle(n, accepted, true) }
	each_call(EVENT)
#ifdef LOOK_UP /* A call to somebody else is claimed and accepted. */
#define ORDER(n) call[n].before = call[n].got; call[n].after = (call[n].outcome == ambiguous);
	:: d_step { !witness -> witness = true; each_call(ORDER) }
#endif
#if PROPERTY == 2
	:: break /* from now on, silence */
#endif
	od
}

/* What is bound to happen sooner or later. */
active proctype Time() {
	do
	/* A lease runs out. Between the last check and the first byte a machine may
	 * stall: that this is shorter than quietMargin is assumed, and cannot be enforced. */
#define TICK(n) :: d_step { n < claims && call[n].outcome == none && call[n].span < LAPSED && !in_window(n) -> call[n].span++ }
	each_call(TICK)
	/* ledger/finish.go: Expire. */
	:: d_step { (publication == running || publication == paused) && !ended -> publication = expired }
#if defined(LOOK_UP) && !defined(BLIND_LOOK_UP)
	/* The look-up catches up, in the order of acceptance. */
#define SHOW(n) :: d_step { call[n].got && !call[n].shown -> call[n].shown = true }
	each_call(SHOW)
#define in_order(n) (!call[n].before || call[n].shown)
	:: d_step { witness && !witness_shown && all_calls(in_order) -> witness_shown = true }
#endif
	od
}

#if PROPERTY == 2
#define OR_NOBODY_ASKS :: break
#else
#define OR_NOBODY_ASKS
#endif

/* ledger/gate.go: Pause, Resume, Cancel. */
active proctype Operator() {
	byte pauses;
	do
	:: d_step { publication == running && pauses < PAUSES -> pauses++; publication = paused; stopping = true };
		all_calls(quiet);
		d_step { stopping = false; answered = (publication == paused) } /* else it has expired, and may be reopened */
	:: d_step { publication == paused -> publication = running; answered = false }
	:: d_step { (publication == running || publication == paused) && CANCELS > 0 -> publication = cancelled; stopping = true };
		all_calls(quiet);
		d_step { stopping = false; answered = true };
		break
	OR_NOBODY_ASKS
	od
}

/* ledger/reopen.go: Reopen, by a reset of the batch, and ReopenForReplay. */
active proctype Replay() {
	byte reopens;
	do
	:: d_step { publication != cancelled && reopens < REOPENS && (state == dead || state == held) ->
		reopens++;
		if /* Only a replay by name takes who was held: that is sending without evidence. */
		:: state == held && counts_held -> resends = true; replayed++
		:: else
		fi;
		resends = (resends && keeps_resends);
		state = pending;
		if
		:: publication == expired -> publication = running; answered = false
		:: else
		fi }
	OR_NOBODY_ASKS
	od
}

#if PROPERTY == 2
/* With fairness, spin does not look at runs that come to a stop: so none does. */
active proctype Pulse() { bool tick; do :: tick = !tick od }

ltl settled { <>[] (ended && !stopping) }
#endif
