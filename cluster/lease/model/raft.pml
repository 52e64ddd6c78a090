/* Raft, as far as leases depend on it. Included by lease.pml.
 *
 * Three voters, 0 to 2. Node 0 is at first the established leader of term 1, and
 * entry 1, its epoch entry, is applied everywhere. One step is one action of one
 * node and is atomic; all steps of all nodes interleave in every order.
 *
 * Terms and votes, the rule that a voter refuses a candidate whose log is behind,
 * and the rule that a leader commits by counting only entries of its own term
 * are modelled. What is committed and what the state machine has applied are two
 * numbers, on the leader too. Replication copies the whole log, which is what a
 * follower has after any number of AppendEntries. A message that is lost is a
 * step that is not taken; one that is late is a step that is taken later. A
 * leader that is cut off never notices by itself.
 *
 * An election is one step: the candidate's new term, the one vote that it needs
 * beside its own, and its win. What is left out could only take power away. A
 * candidate that waits or loses confirms no older term, ends leaderships and
 * uses up a vote; a leader that steps down and does not come back takes no
 * further step of Raft; a win that is learned of late adds nothing, because until then the
 * candidate answers nobody and nobody counts its log.
 *
 * An entry is its term: the first entry of a term is that leader's epoch entry,
 * every other one a write that is fenced.
 *
 * The file that includes this one says what happens when v's vote makes n a leader
 * (won_leadership), and when a node hears of a higher term (joined_term).
 */
#define MAJORITY(set) ((set)==3 || (set)==5 || (set)==6 || (set)==7)
#define BIT(n) (1<<(n))
#define ENTRY(n,k) entry[(n)*5+(k)]           /* term of entry k (from 1) in n's log; 0: there is none */
#define EACH(STEP) STEP(0) STEP(1) STEP(2)
#define OTHERS(STEP) STEP(0,1) STEP(0,2) STEP(1,0) STEP(1,2) STEP(2,0) STEP(2,1)
#define PAIRS(STEP) STEP(0,0) STEP(0,1) STEP(0,2) STEP(1,0) STEP(1,1) STEP(1,2) STEP(2,0) STEP(2,1) STEP(2,2)

byte term[3]; bool leader[3];
bool voted[3];                                /* in its term */
byte length[3]; byte entry[15]; byte commit[3]; byte applied[3];

#define UPTODATE(c,v) ( ENTRY(c,length[c]) > ENTRY(v,length[v]) || (ENTRY(c,length[c]) == ENTRY(v,length[v]) && length[c] >= length[v]) )
#define HAS(v,l,k) ( length[v] >= (k) && ENTRY(v,k) == ENTRY(l,k) )
#define REPLICAS(l,k) ( (HAS(0,l,k)->1:0) | (HAS(1,l,k)->2:0) | (HAS(2,l,k)->4:0) )

/* c stands in the next term, and v votes for it. c may have led until now. */
#define ELECT(c,v) :: d_step { (term[c] < MAXTERM && length[c] < MAXLEN && \
       (term[v] <= term[c] || (term[v]==term[c]+1 && !voted[v])) && UPTODATE(c,v)) -> \
     term[c]++; voted[c]=1; leader[c]=1; leader[v]=0; term[v]=term[c]; voted[v]=1; \
     length[c]++; ENTRY(c,length[c])=term[c]; won_leadership(c,v) }

/* A higher term is taken over from any message: a request for a vote, an answer. */
#define HEAR(v,n) :: d_step { (term[v] < term[n]) -> leader[v]=0; term[v]=term[n]; voted[v]=0; joined_term(v) }

#define REPLICATE(l,v) :: d_step { (leader[l] && term[v] <= term[l] && \
       (term[v]<term[l] || commit[v]<commit[l] || length[v]!=length[l] || ENTRY(v,length[v])!=ENTRY(l,length[l]))) -> \
     if :: term[v]<term[l] -> leader[v]=0; term[v]=term[l]; voted[v]=0; joined_term(v) :: else fi; \
     length[v]=length[l]; \
     ENTRY(v,1)=ENTRY(l,1); ENTRY(v,2)=ENTRY(l,2); ENTRY(v,3)=ENTRY(l,3); ENTRY(v,4)=ENTRY(l,4); \
     if :: commit[v]<commit[l] -> commit[v]=commit[l] :: else fi }

#define COMMIT(l) :: d_step { (leader[l] && commit[l] < length[l] && ENTRY(l,length[l])==term[l] && MAJORITY(REPLICAS(l,length[l]))) -> \
     commit[l]=length[l] }

inline raft_start() {
  term[0]=1; term[1]=1; term[2]=1; voted[0]=1; voted[1]=1; voted[2]=1; leader[0]=1;
  length[0]=1; length[1]=1; length[2]=1; ENTRY(0,1)=1; ENTRY(1,1)=1; ENTRY(2,1)=1;
  commit[0]=1; commit[1]=1; commit[2]=1; applied[0]=1; applied[1]=1; applied[2]=1
}

#define RAFT_STEPS OTHERS(ELECT) OTHERS(HEAR) OTHERS(REPLICATE) EACH(COMMIT)
