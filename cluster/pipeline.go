package cluster

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline sends entries to one member without waiting for each answer. It is the
// library's, without a deadlock of its own: the library hands an answer on only to who
// waits for it, and takes a further message only once the answer before is handed on.
// Who waits for answers ends at the first one that says no (a newer term, or an entry
// that does not fit), while who sends may be inside a message. Then nobody takes
// that answer, the message is never taken, and nothing is sent to that member any
// more, in this term or, since Raft waits for its senders, until the process is
// ended from outside.
//
// So whoever waits takes answers from here, where they are taken from the library in
// any case. There are never more than were sent, and who sends stops at the first
// look after that no.
type pipeline struct {
	raft.AppendPipeline

	ready chan raft.AppendFuture
	done  chan struct{}
	ended chan struct{}
	once  sync.Once
}

func newPipeline(inner raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: inner, ready: make(chan raft.AppendFuture), done: make(chan struct{}), ended: make(chan struct{})}
	go p.pass()
	return p
}

// pass takes answers from the library and gives them out in their order.
func (p *pipeline) pass() {
	defer close(p.ended)
	var waiting []raft.AppendFuture
	for {
		var out chan<- raft.AppendFuture
		var first raft.AppendFuture
		if len(waiting) > 0 {
			out, first = p.ready, waiting[0]
		}
		select {
		case f := <-p.AppendPipeline.Consumer():
			waiting = append(waiting, f)
		case out <- first:
			waiting = waiting[1:]
		case <-p.done:
			return
		}
	}
}

// Consumer implements [raft.AppendPipeline].
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close implements [raft.AppendPipeline]. It returns once nothing of p runs any more.
func (p *pipeline) Close() error {
	err := p.AppendPipeline.Close()
	p.once.Do(func() { close(p.done) })
	<-p.ended
	return err
}
