/* For each call, for all calls, for how many: spin has no words for it, so they are
 * written out. */
#if CALLS == 1
#define each_call(option) option(0)
#define all_calls(are)    are(0)
#define how_many(are)     are(0)
#elif CALLS == 2
#define each_call(option) option(0) option(1)
#define all_calls(are)    (are(0) && are(1))
#define how_many(are)     (are(0) + are(1))
#elif CALLS == 3
#define each_call(option) option(0) option(1) option(2)
#define all_calls(are)    (are(0) && are(1) && are(2))
#define how_many(are)     (are(0) + are(1) + are(2))
#else
#define each_call(option) option(0) option(1) option(2) option(3)
#define all_calls(are)    (are(0) && are(1) && are(2) && are(3))
#define how_many(are)     (are(0) + are(1) + are(2) + are(3))
#endif
