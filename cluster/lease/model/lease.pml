/* Serving leases: the protocol as it is built. Text: docs/leases.md. Run: make model.
 *
 * WHAT IS MODELLED. The Raft of raft.pml. Establishing inside Apply of the own
 * epoch entry, with the flap rule. Renew, Confirm by voters, Grant, each a step
 * of its own that may come late or never. Grants with their index. Fences as a
 * watermark over the table of unexpired grants, and the wait of a new leader.
 * Reports keyed by incarnation, and ordered incarnations (CRASH). The gate.
 *
 * WHAT IS NOT. Change of membership; the bytes of a snapshot (a crash sets the
 * state machine back to entry 1); the audit of clocks; non-voters as nodes of their
 * own (they can only hold leases, as voters do, and must not be counted:
 * BUG_NONVOTER); liveness. Fields: the whole state is one register, so the gate by
 * field and the two entries of a rotation are arguments over S1, not steps here.
 *
 * TIME is a step `tick` that moves all timers of all nodes at once. Clock drift
 * is in two numbers: LEASE is the most real ticks a holder can use a lease of
 * nominally D(1-eps), WAIT the fewest real ticks that a leader waits when it
 * waits D(1+eps). That drift is at most eps means WAIT >= LEASE; the model takes
 * the worst case, equality.
 *
 * PROPERTIES, asserted after every step that could break them:
 *   S1  nobody who may serve lacks a write that was acknowledged;
 *   S2  nobody serves an older state than somebody served before;
 *   S3  (only with a tail, see below) nobody acts on a state before `over`.
 *
 * REDUCTIONS. These add behaviour, so what holds here holds without them:
 *   - a node knows the complete index the moment a leader does;
 *   - everyone who may serve does, at once (`served`);
 *   - a voter confirms a request as soon as it can: when the request arrives, or
 *     when it reaches that term; the leader may use that at any later time;
 *   - a request to a leader that is not established yet, which would wait there, is
 *     sent when it is: the same request, only younger;
 *   - a leader never notices that it lost the leadership: only the flap rule ends
 *     its table. Noticing would only take steps away from it;
 *   - a holder takes a grant of any term, whatever terms it has heard of.
 * These take away only what nothing can depend on any more:
 *   - a request that is lost stays on its way until the next one replaces it;
 *   - of a report, and of a grant in the table, what says nothing about an
 *     entry above FLOOR is forgotten: entries up to FLOOR are complete;
 *   - a leader keeps no entry about itself; it has applied what it completes.
 * BOUNDS, within which the search is exhaustive: three voters, MAXTERM terms,
 * MAXLEN entries, LEASE ticks, the nodes of HOLD (a bit mask) take leases, CRASH
 * crashes or restores.
 *
 * TAIL (LEASE > STRICT; not built, docs/leases.md "What comes later"): a lease is
 * good for everything for STRICT ticks, and then, until LEASE, only for what may
 * be served without a strict lease. Fences and acknowledgements wait for the strict part;
 * `over` waits for all of it.
 *
 * SHORTWAIT (not built): every voter stamps what it confirms, and a new leader waits
 * only as long as the stamps of the two voters that elected it run.
 *
 * SEEDED BUGS. -DBUG_X takes one protection away; each must be found:
 *   NOWAIT     a new leader does not wait for the leases of older terms
 *   STAR       ... or stops waiting for good once a node reported its epoch entry
 *   NOVERIFY   a grant needs no confirmation
 *   VERIFYLEADER  an answer that was under way before the request counts
 *   NONVOTER   the leader and one non-voter count as a majority
 *   RECVTIME   the holder counts from when the grant arrives
 *   DRIFT      the leader waits a tick less than the holder serves
 *   NOGRANTIDX the holder does not wait for the index of its grant
 *   NOEST      grants before the epoch entry is applied
 *   RAFTAPPLIED reports what is committed, not what is applied
 *   NOGATE     serves what is not complete
 *   LATEEST    established some time after Apply of the epoch entry, not in it
 *   FLAP       leadership lost and won again passes unnoticed
 *   FLAPLATE   the table is dropped at the own epoch entry, not at the first entry of a higher term
 *   CONFTERM   Confirm carries the voter's present term, not the established one
 *   NOINC      reports are keyed by node only                        (CRASH)
 *   INCORDER   a late message of an old incarnation counts as a new one (CRASH)
 *   RESTORE    the state machine goes back and the lease is kept      (CRASH)
 *   RESTORETABLE  a snapshot replaces the state and the leader's table is kept (CRASH)
 *   PERSIST    the lease outlives the process                         (CRASH)
 *   SELFCONF   a leader's own confirmation is not stamped             (SHORTWAIT)
 *   TAILSTRICT, TAILNOSTAR, ONEMAX, LOWERED                           (tail)
 * -DREACH, -DREACHFLAP, -DREACHCRASH, -DREACH2 assert that something good never happens, so an error shows
 * that it does: the search is not empty.
 */
#ifndef HOLD
#define HOLD 4
#endif
#ifndef MAXTERM
#define MAXTERM 2
#endif
#ifndef MAXLEN
#define MAXLEN 3
#endif
#ifndef LEASE
#define LEASE 2
#endif
#ifndef STRICT
#define STRICT LEASE
#endif
#ifndef CRASH
#define CRASH 0
#endif
#ifdef BUG_DRIFT
#define WAIT (LEASE-1)
#else
#define WAIT LEASE
#endif

#include "raft.pml"

/* ---- state ---------------------------------------------------------------- */
byte won[3];                                  /* node: set of terms whose epoch entry it proposed and has not applied */
bool est[3]; byte estTerm[3]; byte epoch[3];  /* leader: established, in which term, index of its epoch entry */
byte older[9];                                /* leader l, node x: ticks until every lease of older terms has ended */
byte granted[18*MAXLEN];                      /* leader l, node x, incarnation k, grant index g: ticks until that grant has ended */
byte reported[18];                            /* leader l, node x, incarnation k: highest index it reported */
bit  higher[9];                               /* leader l, node x: heard of incarnation 1, so refuses incarnation 0 */
bit  incarnation[3];
byte lease[3];                                /* node: ticks for which it may still serve */
/* One request of each holder: 0 none, 1 Renew under way, 2 at the leader, 3 Grant under way. */
byte phase[3]; byte to[3]; byte reqTerm[3]; byte age[3]; byte report[3]; bit reqInc[3]; byte confirmed[3]; byte grantIdx[3];
byte late[3]; byte lateTo[3]; byte lateReport[3]; /* a Renew of incarnation 0 that its node's crash left under way */
byte crashes;
#ifdef BUG_LATEEST
byte pending[3];                              /* leader: its epoch entry, applied and not yet acted on */
#endif
#ifdef BUG_VERIFYLEADER
byte inflight[3];                             /* leader: set of voters whose answer to a heartbeat is under way */
#endif
#ifdef SHORTWAIT
byte stamp[3]; byte shortwait[3];               /* voter: ticks for which a grant that it confirmed may last; new leader: ticks that it waits */
#endif
byte acked; byte served;                      /* ghosts: highest acknowledged write, highest state served */
#if STRICT < LEASE
byte over;                                    /* ghost: nobody acts on a state before it, tail included */
#endif
byte i; byte j;                               /* loops; 0 between steps */

#define HOLDS(x) ((HOLD>>(x))&1)
#define LX(l,x) ((l)*3+(x))
#define LXK(l,x,k) (((l)*3+(x))*2+(k))
#define GRANTED(l,x,k,g) granted[LXK(l,x,k)*MAXLEN+(g)-1]
#define DEC(v) v = ((v) > 0 -> (v)-1 : 0)
#define MAYSERVE(x) (lease[x] > LEASE-STRICT)
#if STRICT < LEASE && !defined(BUG_ONEMAX) && !defined(BUG_LOWERED)
#define FLOOR (acked < over -> acked : over)
#else
#define FLOOR acked
#endif

#define FORGET_REQUEST(x) phase[x]=0; to[x]=0; reqTerm[x]=0; age[x]=0; report[x]=0; reqInc[x]=0; confirmed[x]=0; grantIdx[x]=0

inline drop_table(n) {
  est[n]=0; estTerm[n]=0; epoch[n]=0; older[LX(n,0)]=0; older[LX(n,1)]=0; older[LX(n,2)]=0;
  higher[LX(n,0)]=0; higher[LX(n,1)]=0; higher[LX(n,2)]=0;
  i=0; do :: i<6*MAXLEN -> granted[n*6*MAXLEN+i]=0; i++ :: else -> break od;
  i=0; do :: i<6 -> reported[n*6+i]=0; i++ :: else -> break od; i=0;
  /* requests that wait there are lost with it */
  do :: i<3 -> if :: phase[i]==2 && to[i]==n -> FORGET_REQUEST(i) :: else fi; i++ :: else -> break od; i=0
}

/* What says nothing about entries above FLOOR is forgotten. */
inline forget() {
  i=0; do :: i<18 -> if :: reported[i] <= FLOOR -> reported[i]=0 :: else fi; i++ :: else -> break od;
  i=0; do :: i<3 -> if :: report[i] <= FLOOR -> report[i]=0 :: else fi; if :: lateReport[i] <= FLOOR -> lateReport[i]=0 :: else fi; i++ :: else -> break od;
  if :: FLOOR >= MAXLEN ->
        i=0; do :: i<18*MAXLEN -> granted[i]=0; i++ :: else -> break od;
        i=0; do :: i<9 -> older[i]=0; i++ :: else -> break od
     :: else fi; i=0
}

/* ---- properties ----------------------------------------------------------- */
#ifdef BUG_NOGATE
#define GATE(x) 1
#else
#define GATE(x) (applied[x] <= acked)
#endif
inline check() {
#ifdef REACH /* a leader of a later term acknowledged its own write while node 2 serves the newest state */
  assert( !(est[1] && estTerm[1]==MAXTERM && acked==MAXLEN && MAYSERVE(2) && applied[2]==MAXLEN) );
#endif
#ifdef REACH2 /* tail: a node acts on the old state while the strict fence of entry 2 is complete */
  assert( !(acked>=2 && lease[2]>0 && applied[2]<2) );
#endif
#ifdef REACHFLAP /* node 0 leads, another one does, node 0 leads again, is established again and acknowledges */
  assert( !(est[0] && estTerm[0]==3 && ENTRY(0,2)==2 && acked==MAXLEN && MAYSERVE(2)) );
#endif
#ifdef REACHCRASH /* a restarted node serves the newest state that a leader acknowledged to it */
  assert( !(crashes>0 && incarnation[2]==1 && acked>=2 && MAYSERVE(2) && applied[2]>=2) );
#endif
  i=0;
  do
  :: i < 3 ->
#ifdef BUG_ONEMAX
     assert( !(lease[i]>0 && applied[i]<2 && acked>=2) );             /* entry 2 changes an object with a tail */
     assert( !(MAYSERVE(i) && applied[i]<3 && acked>=3) );
#else
#ifdef BUG_LOWERED
     assert( !(lease[i]>0 && applied[i]<2 && acked>=3) );             /* in its view the object still has a tail and is enabled */
#else
     assert( !(MAYSERVE(i) && applied[i] < acked) );                  /* S1 */
#if STRICT < LEASE
     assert( !(lease[i] > 0 && applied[i] < over) );                  /* S3 */
#endif
     if :: (MAYSERVE(i) && GATE(i) && served < applied[i]) -> served = applied[i] :: else fi;
#endif
#endif
     i++
  :: else -> break
  od; i=0;
#if !defined(BUG_ONEMAX) && !defined(BUG_LOWERED)
  do :: i < 3 -> assert( !(MAYSERVE(i) && GATE(i) && applied[i] < served) ); i++ :: else -> break od; i=0; /* S2 */
#endif
  skip
}

/* ---- leadership ----------------------------------------------------------- */
inline won_leadership(n,v) {
#ifdef SHORTWAIT /* counted from the election, by what the voters that elected it confirmed */
  shortwait[n] = (stamp[n] > stamp[v] -> stamp[n] : stamp[v]);
#endif
  won[n] = won[n] | BIT(term[n])
}

/* Apply of one entry: the flap rule, then establishing, in one atomic step with publishing. */
#define NEWTERM(n) (ENTRY(n,applied[n]) != ENTRY(n,applied[n]-1))
#define OWNEPOCH(n) (NEWTERM(n) && (won[n] & BIT(ENTRY(n,applied[n]))))
#ifdef BUG_FLAP
#define DROPS(n) 0
#define ESTABLISHES(n) (OWNEPOCH(n) && !est[n])
#else
#ifdef BUG_FLAPLATE
#define DROPS(n) 0
#else
#define DROPS(n) (est[n] && ENTRY(n,applied[n]) > estTerm[n])
#endif
#define ESTABLISHES(n) OWNEPOCH(n)
#endif
#ifdef SHORTWAIT
#define OLDERWAIT(n) shortwait[n]
#else
#define OLDERWAIT(n) WAIT
#endif
inline establish(n,k) {
  drop_table(n);
  est[n]=1; estTerm[n]=ENTRY(n,k); epoch[n]=k; won[n] = won[n] & (15-BIT(estTerm[n]));
#ifndef BUG_NOWAIT
  if :: FLOOR < MAXLEN ->
     if :: HOLDS(0) && n!=0 -> older[LX(n,0)]=OLDERWAIT(n) :: else fi;
     if :: HOLDS(1) && n!=1 -> older[LX(n,1)]=OLDERWAIT(n) :: else fi;
     if :: HOLDS(2) && n!=2 -> older[LX(n,2)]=OLDERWAIT(n) :: else fi
  :: else fi
#endif
}
#define APPLY(n) :: d_step { (applied[n] < commit[n]) -> applied[n]++; \
     if :: DROPS(n) -> drop_table(n) :: else fi; \
     if :: ESTABLISHES(n) -> ONEPOCH(n) :: else fi; check() }
#ifdef BUG_LATEEST
#define ONEPOCH(n) pending[n]=applied[n]; won[n] = won[n] & (15-BIT(ENTRY(n,applied[n])))
#define ESTABLISH(n) :: d_step { (pending[n] != 0) -> establish(n,pending[n]); pending[n]=0 }
#else
#define ONEPOCH(n) establish(n,applied[n])
#endif

#define WRITE(l) :: d_step { (leader[l] && est[l] && length[l] < MAXLEN && commit[l]==length[l]) -> length[l]++; ENTRY(l,length[l])=term[l] }

/* ---- fences --------------------------------------------------------------- */
#define LASTS(l,x,k,g,tail,idx) ( (g) < (idx) && GRANTED(l,x,k,g) > (tail) )
#if MAXLEN==3
#define OLDGRANT(l,x,k,tail,idx) ( LASTS(l,x,k,1,tail,idx) || LASTS(l,x,k,2,tail,idx) )
#else
#define OLDGRANT(l,x,k,tail,idx) ( LASTS(l,x,k,1,tail,idx) || LASTS(l,x,k,2,tail,idx) || LASTS(l,x,k,3,tail,idx) )
#endif
#define KNOWN(l,x,k,tail,idx) ( reported[LXK(l,x,k)] >= (idx) || !OLDGRANT(l,x,k,tail,idx) )
#ifdef BUG_TAILNOSTAR
#define NOSTAR(tail) || (tail)==0
#else
#define NOSTAR(tail)
#endif
#define OLDER(l,x,tail,idx) ( older[LX(l,x)] <= (tail) || reported[LXK(l,x,0)] >= (idx) || reported[LXK(l,x,1)] >= (idx) NOSTAR(tail) )
#define PAST(l,x,tail,idx) ( x==l || !HOLDS(x) || (KNOWN(l,x,0,tail,idx) && KNOWN(l,x,1,tail,idx) && OLDER(l,x,tail,idx)) )
#define COMPLETES(l,tail,idx) ( est[l] && (idx) >= epoch[l] && (idx) <= applied[l] && PAST(l,0,tail,idx) && PAST(l,1,tail,idx) && PAST(l,2,tail,idx) )
#ifdef BUG_ONEMAX /* one complete index, of which entry 2 waits for the tail and the others do not */
#define TAIL(idx) ((idx)==2 -> 0 : LEASE-STRICT)
#else
#define TAIL(idx) (LEASE-STRICT)
#endif
#define FENCE(l,idx) :: d_step { (acked < (idx) && COMPLETES(l,TAIL(idx),idx)) -> acked=(idx); forget(); check() }
#define FENCES(idx) FENCE(0,idx) FENCE(1,idx) FENCE(2,idx)
#ifdef BUG_TAILSTRICT
#define OVERTAIL (LEASE-STRICT)
#else
#define OVERTAIL 0
#endif
#define OVER(l,idx) :: d_step { (over < (idx) && COMPLETES(l,OVERTAIL,idx)) -> over=(idx); forget(); check() }
#define OVERS(idx) OVER(0,idx) OVER(1,idx) OVER(2,idx)

/* ---- Renew, Confirm, Grant ------------------------------------------------ */
#ifdef BUG_RAFTAPPLIED
#define REPORT(x) commit[x]
#else
#define REPORT(x) applied[x]
#endif
#ifdef BUG_NOINC
#define KEY(x) 0
#else
#define KEY(x) reqInc[x]
#endif
#ifdef BUG_NOEST
#define GRANTS(l) (est[l] || leader[l])
#else
#define GRANTS(l) est[l]
#endif
#ifdef BUG_CONFTERM
#define SAYS(l) term[l]
#else
#define SAYS(l) (est[l] -> estTerm[l] : term[l])
#endif
#define SEND(x,l) :: d_step { (HOLDS(x) && GRANTS(l)) -> FORGET_REQUEST(x); \
     phase[x]=1; to[x]=l; reqInc[x]=incarnation[x]; if :: REPORT(x) > FLOOR -> report[x]=REPORT(x) :: else fi }

#ifdef BUG_VERIFYLEADER
#define HEARTBEAT(l,v) :: d_step { (leader[l] && (inflight[l]&BIT(v))==0 && term[v]==term[l]) -> inflight[l]=inflight[l]|BIT(v) }
#define STALE(l) inflight[l] |
#define TAKEN(l) inflight[l]=0
#else
#define STALE(l)
#define TAKEN(l) skip
#endif
#ifdef SHORTWAIT /* a voter stamps every confirmation, the leader its own, too */
#ifdef BUG_SELFCONF
#define STAMP(x,v) if :: to[x]!=v -> stamp[v]=LEASE :: else fi
#else
#define STAMP(x,v) stamp[v]=LEASE
#endif
#define ATONCE(l) 0
#define CONFIRM(x,v) :: d_step { (phase[x]==2 && (confirmed[x]&BIT(v))==0 && term[v]==reqTerm[x]) -> confirmed[x]=confirmed[x]|BIT(v); STAMP(x,v) }
#define joined_term(v) skip
#else
/* A voter that reaches the term of a request that waits confirms it, too. */
inline joined_term(v) {
  i=0; do :: i<3 -> if :: phase[i]==2 && reqTerm[i]==term[v] -> confirmed[i]=confirmed[i]|BIT(v) :: else fi; i++ :: else -> break od; i=0
}
#define ATONCE(l) ( (term[0]==SAYS(l)->1:0) | (term[1]==SAYS(l)->2:0) | (term[2]==SAYS(l)->4:0) )
#endif
#if CRASH > 0 && !defined(BUG_NOINC)
#define NEWER(x,l) if :: reqInc[x]==1 && x!=l -> higher[LX(l,x)]=1; j=1; do :: j<=MAXLEN -> GRANTED(l,x,0,j)=0; j++ :: else -> break od; j=0 :: else fi
#else
#define NEWER(x,l) skip
#endif
#define RECEIVE(x,l) :: d_step { (phase[x]==1 && to[x]==l && GRANTS(l)) -> phase[x]=2; reqTerm[x]=SAYS(l); \
     if :: x!=l && reported[LXK(l,x,KEY(x))] < report[x] -> reported[LXK(l,x,KEY(x))]=report[x]; EPOCHREPORT(x,l) :: else fi; report[x]=0; \
     NEWER(x,l); confirmed[x]=STALE(l) ATONCE(l); TAKEN(l) }
#ifdef BUG_STAR
#define EPOCHREPORT(x,l) if :: report[x] >= epoch[l] -> older[LX(l,x)]=0 :: else fi
#else
#define EPOCHREPORT(x,l) skip
#endif

#ifdef BUG_NOVERIFY
#define VERIFIED(x) 1
#else
#ifdef BUG_NONVOTER /* of three, the leader and a non-voter that has not heard of a new term */
#define VERIFIED(x) (confirmed[x] != 0)
#else
#define VERIFIED(x) MAJORITY(confirmed[x])
#endif
#endif
#define GRANT(x,l) :: d_step { (phase[x]==2 && to[x]==l && GRANTS(l) && SAYS(l)==reqTerm[x] && VERIFIED(x)) -> \
     phase[x]=3; confirmed[x]=0; reqTerm[x]=0; grantIdx[x]=applied[l]; \
     if :: x!=l && applied[l] < MAXLEN && FLOOR < MAXLEN && reported[LXK(l,x,KEY(x))] < MAXLEN -> GRANTED(l,x,KEY(x),applied[l])=WAIT :: else fi; to[x]=0 }
#ifdef BUG_NOGRANTIDX
#define REACHED(x) 1
#else
#define REACHED(x) (applied[x] >= grantIdx[x])
#endif
#ifdef BUG_RECVTIME
#define LENGTH(x) LEASE
#else
#define LENGTH(x) (LEASE - age[x])
#endif
#define DELIVER(x) :: d_step { (phase[x]==3 && REACHED(x)) -> if :: lease[x] < LENGTH(x) -> lease[x]=LENGTH(x) :: else fi; FORGET_REQUEST(x); check() }

/* ---- crash and restore ---------------------------------------------------- */
#ifdef BUG_PERSIST
#define VOID(n) skip
#else
#define VOID(n) lease[n]=0
#endif
#ifdef SHORTWAIT
#define UNSURE(n) stamp[n]=LEASE
#else
#define UNSURE(n) skip
#endif
inline new_incarnation(n) {
  if :: phase[n]==1 -> late[n]=1; lateTo[n]=to[n]; lateReport[n]=report[n] :: else fi; FORGET_REQUEST(n); incarnation[n]=1
}
/* Crash and restart: the state machine is at its snapshot, entry 1; what raft keeps on disk stays. */
#define DIES(n) :: d_step { (crashes < CRASH && incarnation[n]==0) -> crashes++; leader[n]=0; won[n]=0; \
     drop_table(n); VOID(n); UNSURE(n); applied[n]=1; commit[n]=1; new_incarnation(n); check() }
/* A snapshot from the leader replaces the state: the state machine goes back, or over entries that it never applied. */
#ifdef BUG_RESTORE
#define RESTORED(n) skip
#else
#ifdef BUG_RESTORETABLE
#define RESTORED(n) lease[n]=0; new_incarnation(n)
#else
#define RESTORED(n) drop_table(n); lease[n]=0; new_incarnation(n)
#endif
#endif
#define RESTOREBACK(n) :: d_step { (crashes < CRASH && !leader[n] && incarnation[n]==0 && applied[n] > 1) -> crashes++; applied[n]=1; commit[n]=1; RESTORED(n); check() }
#define RESTOREON(n) :: d_step { (crashes < CRASH && !leader[n] && incarnation[n]==0 && applied[n] < commit[n]) -> crashes++; applied[n]=commit[n]; RESTORED(n); check() }
#ifdef BUG_INCORDER
#define LATE(x,l) :: d_step { (late[x] && lateTo[x]==l && est[l]) -> if :: x!=l && reported[LXK(l,x,0)] < lateReport[x] -> reported[LXK(l,x,0)]=lateReport[x] :: else fi; \
     j=1; do :: j<=MAXLEN -> GRANTED(l,x,1,j)=0; j++ :: else -> break od; j=0; late[x]=0; lateTo[x]=0; lateReport[x]=0 }
#else
#define LATE(x,l) :: d_step { (late[x] && lateTo[x]==l && est[l]) -> \
     if :: x!=l && !higher[LX(l,x)] && reported[LXK(l,x,0)] < lateReport[x] -> reported[LXK(l,x,0)]=lateReport[x] :: else fi; late[x]=0; lateTo[x]=0; lateReport[x]=0 }
#endif

/* ---- time ----------------------------------------------------------------- */
inline tick() {
  i=0; do :: i<18*MAXLEN -> DEC(granted[i]); i++ :: else -> break od;
  i=0; do :: i<9 -> DEC(older[i]); i++ :: else -> break od;
#ifdef SHORTWAIT
  i=0; do :: i<3 -> DEC(stamp[i]); DEC(shortwait[i]); i++ :: else -> break od;
#endif
  i=0; do :: i<3 -> DEC(lease[i]);
       if :: phase[i]!=0 && age[i] < LEASE -> age[i]++;
#ifndef BUG_RECVTIME
             /* too old to bring a lease: only its report is left */
             if :: age[i]>=LEASE && (phase[i]>1 || report[i]==0) -> FORGET_REQUEST(i) :: else fi
#endif
          :: else fi; i++ :: else -> break od; i=0
}

init {
  d_step { raft_start(); est[0]=1; estTerm[0]=1; epoch[0]=1; acked=1; served=1;
#if STRICT < LEASE
    over=1
#endif
  }
  do
  RAFT_STEPS
  EACH(APPLY) EACH(WRITE)
#ifdef BUG_LATEEST
  EACH(ESTABLISH)
#endif
  FENCES(2) FENCES(3)
#if MAXLEN > 3
  FENCES(4)
#endif
#if STRICT < LEASE
  OVERS(2) OVERS(3)
#if MAXLEN > 3
  OVERS(4)
#endif
#endif
  PAIRS(SEND) PAIRS(RECEIVE)
#ifdef BUG_VERIFYLEADER
  OTHERS(HEARTBEAT)
#endif
#ifdef SHORTWAIT
  PAIRS(CONFIRM)
#endif
  PAIRS(GRANT) EACH(DELIVER)
#if CRASH > 0
  EACH(DIES) EACH(RESTOREBACK) EACH(RESTOREON) PAIRS(LATE)
#endif
  :: d_step { tick() }
  od
}
