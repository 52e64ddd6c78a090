/* Serving leases: the first model. What is built is lease.pml; this one stays
 * because it says the same in another way, and both must hold.
 *
 * It differs from lease.pml in this:
 *   - a fence waits for a set: the grants that had not expired when its entry was
 *     applied (`waits`), instead of a watermark over all grants;
 *   - a leader notices at once that it lost the leadership, so there is no flap rule;
 *   - votes are single messages, and a leader never steps down by itself;
 *   - the state machine applies all that is committed in one step;
 *   - a new leader counts its wait from the election, which is earlier;
 *   - nothing is forgotten, so there are more states for less behaviour.
 * Time, drift, the properties S1 and S2, the bounds and the seeded bugs are those of
 * lease.pml; the comments there explain them.
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
#ifdef BUG_DRIFT
#define WAIT (LEASE-1)
#else
#define WAIT LEASE
#endif
#ifndef CRASH
#define CRASH 0
#endif
#define NONE 3
#define HOLDS(x) ((HOLD>>(x))&1)
#define MAJORITY(m) ((m)==3 || (m)==5 || (m)==6 || (m)==7)
#define ENTRY(n,k) entry[(n)*5+(k)]
#define LX(l,x) ((l)*3+(x))
#define LXI(l,x,i) (((l)*3+(x))*2+(i))

/* Raft */
byte term[3]; bool leader[3]; bool candidate[3]; byte votedFor[3]; byte votes[3];
byte length[3]; byte entry[15]; byte commit[3]; byte applied[3];
/* Leader */
byte epoch[3]; bool est[3];
byte done[3];                                 /* highest fence that is complete */
byte older[9];                                /* leader l, node x: ticks until every lease of older terms has ended */
byte granted[18]; byte reported[18];          /* leader l, node x, incarnation k: ticks until its last grant has ended; highest report */
byte waits[18];                               /* the same, of the grants that the fence of entry `applied` waits for */
/* Holder */
bit  incarnation[3];
byte lease[3];
/* One request of each holder: 0 none, 1 Renew under way, 2 at the leader, 3 Grant under way. */
byte phase[3]; byte to[3]; byte reqTerm[3]; byte age[3]; byte report[3]; bit reqInc[3]; byte confirmed[3]; byte grantIdx[3];
byte inflight[3];                             /* BUG_VERIFYLEADER: voters whose answer to a heartbeat is under way */
byte crashes; byte i;
byte acked; byte served;                      /* ghosts */

#define UPTODATE(c,v) ( ENTRY(c,length[c]) > ENTRY(v,length[v]) || (ENTRY(c,length[c]) == ENTRY(v,length[v]) && length[c] >= length[v]) )
#define HAS(v,l,k) ( length[v] >= (k) && ENTRY(v,k) == ENTRY(l,k) )
#define REPLICAS(l,k) ( (HAS(0,l,k)->1:0) | (HAS(1,l,k)->2:0) | (HAS(2,l,k)->4:0) )

inline lost_leadership(n) {
  leader[n]=0; est[n]=0; epoch[n]=0; done[n]=0; inflight[n]=0; older[LX(n,0)]=0; older[LX(n,1)]=0; older[LX(n,2)]=0;
  i=0; do :: i<6 -> granted[n*6+i]=0; reported[n*6+i]=0; waits[n*6+i]=0; i++ :: else -> break od; i=0
}

inline forget_request(x) { phase[x]=0; to[x]=0; reqTerm[x]=0; age[x]=0; report[x]=0; reqInc[x]=0; confirmed[x]=0; grantIdx[x]=0; }

#define DEC(v) v = ((v) > 0 -> (v)-1 : 0)

#ifdef BUG_NOGATE
#define GATE(x) 1
#else
#define GATE(x) (applied[x] <= acked)
#endif
inline check() {
#ifdef REACH /* a leader of a later term acknowledged its own write while node 2 serves the newest state */
  assert( !(leader[1] && term[1]==2 && acked==MAXLEN && lease[2]>0 && applied[2]==MAXLEN) );
#endif
  i = 0;
  do
  :: i < 3 ->
     assert( !(lease[i] > 0 && applied[i] < acked) );                 /* S1 */
     if :: (lease[i] > 0 && GATE(i) && served < applied[i]) -> served = applied[i] :: else fi;
     i++
  :: else -> break
  od; i = 0;
  do
  :: i < 3 -> assert( !(lease[i] > 0 && GATE(i) && applied[i] < served) ); i++   /* S2 */
  :: else -> break
  od; i = 0 }

#define STAND(n) :: d_step { (!leader[n] && term[n] < MAXTERM) -> term[n]++; candidate[n]=1; votedFor[n]=n; votes[n]=(1<<n) }

#define VOTE(v,c) :: d_step { (candidate[c] && (term[v] < term[c] || (term[v]==term[c] && votedFor[v]==NONE && !leader[v])) && UPTODATE(c,v)) -> \
     if :: leader[v] -> lost_leadership(v) :: else fi; candidate[v]=0; votes[v]=0; term[v]=term[c]; votedFor[v]=c; votes[c] = votes[c] | (1<<v); lost_requests(v) }

#define LEAD(n) :: d_step { (candidate[n] && MAJORITY(votes[n]) && length[n] < MAXLEN) -> candidate[n]=0; votes[n]=0; leader[n]=1; est[n]=0; done[n]=0; inflight[n]=0; \
     length[n]++; ENTRY(n,length[n])=term[n]; epoch[n]=length[n]; wait_for_older(n) }

#define REPLICATE(l,v) :: d_step { (leader[l] && term[v] <= term[l] && (term[v]<term[l] || commit[v]<commit[l] || length[v]!=length[l] || ENTRY(v,length[v])!=ENTRY(l,length[l]) || candidate[v])) -> \
     if :: leader[v] -> lost_leadership(v); lost_requests(v) :: else fi; if :: term[v]<term[l] -> term[v]=term[l]; votedFor[v]=NONE :: else fi; candidate[v]=0; votes[v]=0; \
     length[v]=length[l]; ENTRY(v,1)=ENTRY(l,1); ENTRY(v,2)=ENTRY(l,2); ENTRY(v,3)=ENTRY(l,3); ENTRY(v,4)=ENTRY(l,4); if :: commit[v]<commit[l] -> commit[v]=commit[l] :: else fi }

#define COMMIT(l) :: d_step { (leader[l] && commit[l] < length[l] && ENTRY(l,length[l])==term[l] && MAJORITY(REPLICAS(l,length[l]))) -> commit[l]=length[l] }

#define WRITE(l) :: d_step { (leader[l] && est[l] && length[l] < MAXLEN && commit[l]==length[l]) -> length[l]++; ENTRY(l,length[l])=term[l] }
/* On the leader, applying takes the set that the fence waits for: all grants so far, which have a lower index. */
#define APPLY(n) :: d_step { (applied[n] < commit[n]) -> applied[n]=commit[n]; \
     if :: leader[n] && applied[n] >= epoch[n] -> est[n]=1; snapshot(n) :: else fi; check() }
#define GRANTDONE(l,x,k) ( granted[LXI(l,x,k)] == 0 || waits[LXI(l,x,k)] == 0 || reported[LXI(l,x,k)] >= applied[l] || x == l )
#ifdef BUG_STAR
#define NEED(l) epoch[l]
#else
#define NEED(l) applied[l]
#endif
#define OLDERDONE(l,x) ( older[LX(l,x)] == 0 || x == l || reported[LXI(l,x,0)] >= NEED(l) || reported[LXI(l,x,1)] >= NEED(l) )

#define FENCE(l) :: d_step { (leader[l] && est[l] && done[l] < applied[l] && \
       OLDERDONE(l,0) && OLDERDONE(l,1) && OLDERDONE(l,2) && GRANTDONE(l,0,0) && GRANTDONE(l,0,1) && GRANTDONE(l,1,0) && GRANTDONE(l,1,1) && GRANTDONE(l,2,0) && GRANTDONE(l,2,1)) -> \
     done[l]=applied[l]; if :: acked < applied[l] -> acked=applied[l] :: else fi; check() }
#ifdef BUG_RAFTAPPLIED
#define REPORT(x) commit[x]
#else
#define REPORT(x) applied[x]
#endif

#define SEND(x,l) :: d_step { (HOLDS(x) && phase[x]==0 && leader[l]) -> phase[x]=1; to[x]=l; age[x]=0; report[x]=REPORT(x); reqInc[x]=incarnation[x] }
#ifdef BUG_NOINC
#define KEY(x) 0
#else
#define KEY(x) reqInc[x]
#endif

#define RECEIVE(x,l) :: d_step { (phase[x]==1 && to[x]==l && leader[l]) -> phase[x]=2; reqTerm[x]=term[l]; \
     if :: reported[LXI(l,x,KEY(x))] < report[x] -> reported[LXI(l,x,KEY(x))]=report[x] :: else fi; \
     confirmed[x]=inflight[l] | (term[0]==term[l]->1:0) | (term[1]==term[l]->2:0) | (term[2]==term[l]->4:0); inflight[l]=0 }
#define HEARTBEAT(l,v) :: d_step { (leader[l] && (inflight[l]&(1<<v))==0 && v!=l && term[v]==term[l]) -> inflight[l]=inflight[l]|(1<<v) }

#define CONFIRM(x,v) :: d_step { (phase[x]==2 && (confirmed[x]&(1<<v))==0 && term[v]==reqTerm[x]) -> confirmed[x]=confirmed[x]|(1<<v) }
#ifdef BUG_NOVERIFY
#define VERIFIED(x) 1
#else
#define VERIFIED(x) MAJORITY(confirmed[x])
#endif
#ifdef BUG_NOEST
#define GRANTS(l) 1
#else
#define GRANTS(l) est[l]
#endif

#define GRANT(x,l) :: d_step { (phase[x]==2 && to[x]==l && leader[l] && term[l]==reqTerm[x] && GRANTS(l) && VERIFIED(x)) -> \
     phase[x]=3; confirmed[x]=0; grantIdx[x]=applied[l]; granted[LXI(l,x,KEY(x))]=WAIT }
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

#define DELIVER(x) :: d_step { (phase[x]==3 && reqInc[x]==incarnation[x] && REACHED(x)) -> if :: lease[x] < LENGTH(x) -> lease[x]=LENGTH(x) :: else fi; forget_request(x); check() }

#define DROP(x) :: d_step { (phase[x]!=0) -> forget_request(x) }
#ifdef BUG_PERSIST
#define VOID(n) skip
#else
#define VOID(n) lease[n]=0
#endif
/* Crash and restart: the state machine is at its snapshot, entry 1; what raft keeps on disk stays. */
#define DIES(n) :: d_step { (crashes < CRASH) -> crashes++; lost_leadership(n); candidate[n]=0; votes[n]=0; VOID(n); \
     applied[n]=1; commit[n]=1; incarnation[n]=1-incarnation[n]; lost_requests(n); if :: phase[n]==1 -> skip :: else forget_request(n) fi; check() }
#ifdef BUG_RESTORE
#define RESTORE(n) :: d_step { (crashes < CRASH && !leader[n] && applied[n] > 1) -> crashes++; applied[n]=1; commit[n]=1; check() }
#else
#define RESTORE(n)
#endif

inline lost_requests(n) { /* requests that wait at n end with its leadership */
  if :: (phase[0]==2 && to[0]==n) -> forget_request(0) :: else fi;
  if :: (phase[1]==2 && to[1]==n) -> forget_request(1) :: else fi;
  if :: (phase[2]==2 && to[2]==n) -> forget_request(2) :: else fi }

inline wait_for_older(n) {
#ifdef BUG_NOWAIT
  skip
#else
  if :: HOLDS(0) -> older[LX(n,0)]=WAIT :: else fi;
  if :: HOLDS(1) -> older[LX(n,1)]=WAIT :: else fi;
  if :: HOLDS(2) -> older[LX(n,2)]=WAIT :: else fi
#endif
}
inline snapshot(n) { i=0; do :: i < 6 -> waits[n*6+i]=granted[n*6+i]; i++ :: else -> break od; i=0 }

inline tick() {
  i=0; do :: i<18 -> DEC(granted[i]); DEC(waits[i]); i++ :: else -> break od;
  i=0; do :: i<9 -> DEC(older[i]); i++ :: else -> break od;
  i=0; do :: i<3 -> DEC(lease[i]);
       if :: phase[i]!=0 ->
#ifdef BUG_RECVTIME
            if :: age[i] < LEASE -> age[i]++ :: else fi
#else
            age[i]++; if :: age[i] >= LEASE -> if :: phase[i]==1 -> skip :: else forget_request(i) fi :: else fi;
            if :: phase[i]!=0 && age[i]>LEASE -> age[i]=LEASE :: else fi
#endif
          :: else fi; i++ :: else -> break od; i=0 }

init {
  d_step {
    term[0]=1; term[1]=1; term[2]=1; votedFor[0]=0; votedFor[1]=0; votedFor[2]=0; leader[0]=1; est[0]=1; epoch[0]=1; done[0]=1;
    length[0]=1; length[1]=1; length[2]=1; ENTRY(0,1)=1; ENTRY(1,1)=1; ENTRY(2,1)=1; commit[0]=1; commit[1]=1; commit[2]=1; applied[0]=1; applied[1]=1; applied[2]=1;
    acked=1; served=1 }
  do
  STAND(0) STAND(1) STAND(2)
  VOTE(0,1) VOTE(0,2) VOTE(1,0) VOTE(1,2) VOTE(2,0) VOTE(2,1)
  LEAD(0) LEAD(1) LEAD(2)
  REPLICATE(0,1) REPLICATE(0,2) REPLICATE(1,0) REPLICATE(1,2) REPLICATE(2,0) REPLICATE(2,1)
  COMMIT(0) COMMIT(1) COMMIT(2)
  WRITE(0) WRITE(1) WRITE(2)
  APPLY(0) APPLY(1) APPLY(2)
  FENCE(0) FENCE(1) FENCE(2)
  SEND(0,0) SEND(0,1) SEND(0,2) SEND(1,0) SEND(1,1) SEND(1,2) SEND(2,0) SEND(2,1) SEND(2,2)
  RECEIVE(0,0) RECEIVE(0,1) RECEIVE(0,2) RECEIVE(1,0) RECEIVE(1,1) RECEIVE(1,2) RECEIVE(2,0) RECEIVE(2,1) RECEIVE(2,2)
#ifdef BUG_VERIFYLEADER
  HEARTBEAT(0,1) HEARTBEAT(0,2) HEARTBEAT(1,0) HEARTBEAT(1,2) HEARTBEAT(2,0) HEARTBEAT(2,1)
#endif
  CONFIRM(0,0) CONFIRM(0,1) CONFIRM(0,2) CONFIRM(1,0) CONFIRM(1,1) CONFIRM(1,2) CONFIRM(2,0) CONFIRM(2,1) CONFIRM(2,2)
  GRANT(0,0) GRANT(0,1) GRANT(0,2) GRANT(1,0) GRANT(1,1) GRANT(1,2) GRANT(2,0) GRANT(2,1) GRANT(2,2)
  DELIVER(0) DELIVER(1) DELIVER(2)
  DROP(0) DROP(1) DROP(2)
#if CRASH > 0
  DIES(0) DIES(1) DIES(2)
  RESTORE(0) RESTORE(1) RESTORE(2)
#endif
  :: d_step { tick() }
  od
}
