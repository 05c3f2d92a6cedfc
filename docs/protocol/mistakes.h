/* Mistakes made on purpose: spin must find what each of them breaks. README.md says
 * what each takes away. One more, NO_GATE, takes a step apart in delivery.pml. */
#ifdef NO_FENCE
#undef holds
#define holds(c) true
#endif
#ifdef SETTLE_ANY
#undef may_settle
#define may_settle(c, result, proof) true
#undef may_move
#define may_move(result) true
#endif
#ifdef FORGET_PROOF
#undef proven
#define proven(result, proof) (proof && how_many(told) > 0)
#endif
#ifdef OWN_ANSWER_IS_NO_PROOF
#undef proven
#define proven(result, proof) ((proof || result != accepted) && how_many(told) > 0)
#endif
#ifdef LAPSE_EARLY
#undef lapsed
#define lapsed(c) true
#endif
#ifdef NO_LAPSE
#undef lapsed
#define lapsed(c) false
#endif
#ifdef BLIND_RESEND
#undef lost
#define lost released
#endif
#ifdef SKIP_BY_GUESS
#undef not_sent_to
#define not_sent_to skipped
#endif
#ifdef NO_BEGIN_BY_CHECK
#undef may_begin
#define may_begin(c) true
#endif
#ifdef CLOCK_AFTER_CLAIM
#undef may_begin
#define may_begin(c) (call[c].span <= QUIET)
#endif
#ifdef STALL_IN_WINDOW
#undef in_window
#define in_window(c) false
#endif
#ifdef NO_WAIT_ON_CANCEL
#undef quiet
#define quiet(c) true
#endif
#ifdef NO_WITNESS
#undef must_wait
#define must_wait false
#endif
#ifdef WAIT_FOR_EVER
#undef must_wait
#define must_wait (beside && !witness_shown)
#endif
#ifdef LOOK_ONCE
#undef looks_again
#define looks_again false
#endif
#ifdef RESEND_TWICE
#undef may_resend
#define may_resend (RESEND && !stopped)
#endif
#ifdef REOPEN_HELD
#undef counts_held
#define counts_held false
#endif
#ifdef REOPEN_FORGETS
#undef keeps_resends
#define keeps_resends false
#endif
