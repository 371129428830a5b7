"""Who failed first and what is done about it, shown with invented events and times."""

from __future__ import annotations

import dataclasses

import pytest

from modetrain.cluster.launcher.evidence import find_causes, format_workers
from modetrain.cluster.launcher.supervisor import Action, Limits, Supervisor
from modetrain.cluster.protocol import Report

LIMITS = Limits(startup=60, grace=3, term=2, silence=20, stop=300, kill=10)
HEARTBEAT = "Task /job:worker/task:1 stopped sending heartbeats; the coordination service has shut down"


class Story:
    """A watch over workers that have joined, and its time: `story.at(5).exited(1, -9)`."""

    def __init__(self, workers=2, joined=True):
        self.watch = Supervisor(workers, now=0, limits=LIMITS)
        self.now = 0.0
        for worker in range(workers if joined else 0):
            self.watch.ready(worker, 0)

    def at(self, now):
        self.now = now
        return self

    def exited(self, worker, code, log=""):
        self.watch.exited(worker, code, self.now, log)
        return self

    def raised(self, worker, kind="ValueError", message="bad"):
        code = {"ConfigError": 2, "NonFiniteError": 3}.get(kind, 1)
        report = Report(at=self.now, type=kind, message=message, traceback="Traceback ...", code=code)
        self.watch.failed(worker, report)
        return self

    def lost(self, worker):
        return self.raised(worker, "UnavailableError", HEARTBEAT)

    def signal(self, signum):
        self.watch.signalled(signum)
        return self

    def next(self, frozen=()):
        return self.watch.next(self.now, frozen)

    @property
    def sentence(self):
        return self.watch.cause and self.watch.cause.sentence


# --- who was first ---------------------------------------------------------------------------------------------------


def test_all_done():
    story = Story().at(5).exited(0, 0).exited(1, 0)
    assert story.next() is Action.DONE
    assert (story.watch.code, story.watch.cause, story.watch.restartable) == (0, None, False)


def test_nothing_is_asked_for_while_nothing_happens():
    assert Story().at(100_000).next() is Action.WAIT


def test_who_tells_first_of_what_is_not_finite_is_not_to_blame():
    report = Report(at=1.0, type="NonFiniteError", message="loss is nan in step 3", traceback="", code=3)
    (cause,) = find_causes({1: report}, {})
    assert cause.of_all
    assert cause.sentence == "all workers stopped: NonFiniteError: loss is nan in step 3"
    (cause,) = find_causes({1: dataclasses.replace(report, type="ValueError", code=1)}, {})
    assert not cause.of_all
    assert cause.sentence.startswith("worker 1 failed: ValueError")


def test_many_workers_are_named_by_the_first_and_the_last():
    assert format_workers([1]) == "worker 1"
    assert format_workers([0, 1, 3]) == "workers 0, 1 and 3"
    assert format_workers(range(64)) == "workers 0 to 63"
    assert format_workers([0, 1, 2, 3, 4, 6]) == "workers 0, 1, 2, 3, 4 and 6"


def test_an_exception_is_the_cause_though_its_worker_exits_last():
    story = Story().at(10).raised(1)
    assert story.next() is Action.WAIT
    story.at(12).lost(0).exited(0, 1)
    story.next()
    assert story.at(12.5).exited(1, 1).next() is Action.DONE
    assert story.sentence == "worker 1 failed: ValueError: bad"
    assert (story.watch.code, story.watch.restartable, story.watch.followers) == (1, False, [0])


def test_the_earlier_of_two_exceptions_is_the_cause_though_it_is_seen_later():
    story = Story().at(10).raised(0)
    story.next()
    story.at(9.9).raised(1, message="worse")
    story.at(11).exited(0, 1).exited(1, 1)
    assert story.next() is Action.DONE
    assert story.sentence == "worker 1 failed: ValueError: worse"
    assert [other.sentence for other in story.watch.others] == ["worker 0 failed: ValueError: bad"]
    assert story.watch.followers == []


def test_a_signal_is_the_cause_and_the_peers_errors_are_not():
    story = Story(3).at(10).exited(1, -9)
    story.next()
    story.at(12).lost(0).lost(2).exited(0, 1).exited(2, 1)
    assert story.next() is Action.DONE
    assert (story.sentence, story.watch.code) == ("worker 1 was killed by SIGKILL", 1)
    assert (story.watch.restartable, story.watch.followers) == (True, [0, 2])


@pytest.mark.parametrize(
    ("code", "alive_at", "raised_at", "sentence"),
    [
        (-11, 10.0, 10.02, "worker 1 was killed by SIGSEGV"),  # the error may follow from it
        (-11, 10.0, 9.98, "worker 0 failed: ValueError: bad"),
        (-6, 10.0, 10.02, "worker 0 failed: ValueError: bad"),  # so TensorFlow ends a worker whose peer has left
        (-6, 10.0, 10.06, "worker 1 was killed by SIGABRT"),
    ],
)
def test_what_others_say_between_two_looks_may_follow_from_a_crash(code, alive_at, raised_at, sentence):
    story = Story().at(raised_at).raised(0)
    story.watch.exited(1, code, 10.05, alive_at=alive_at)
    story.at(11).exited(0, 1).next()
    assert story.sentence == sentence


def test_a_loss_that_is_not_finite_has_code_3_however_its_workers_end():
    story = Story().at(10).raised(1, "NonFiniteError", "loss is nan")
    story.next()
    story.at(13).next()
    story.at(13.1).exited(1, -15).exited(0, -6)
    assert (story.next(), story.watch.code, story.watch.followers) == (Action.DONE, 3, [])


def test_a_failure_that_is_seen_last_counts_though_a_process_cannot_be_killed():
    story = Story().at(10).exited(0, 4)
    for now in (10, 13, 15):
        story.at(now).next()
    story.at(9).raised(1, "ConfigError", "steps=x")
    assert story.at(25).next() is Action.DONE
    assert (story.watch.code, story.sentence) == (2, "all workers stopped: ConfigError: steps=x")


def test_the_code_of_a_shell_around_a_killed_worker_means_the_same():
    story = Story().at(10).exited(1, 137).exited(0, 0)
    story.next()
    assert (story.sentence, story.watch.restartable) == ("worker 1 was killed by SIGKILL", True)


@pytest.mark.parametrize(
    ("kind", "message", "lost"),
    [
        ("UnavailableError", "whatever", True),
        ("InternalError", "Collective ops is aborted by: ...", True),
        ("DeadlineExceededError", "Collective has timed out waiting for other workers", True),
        ("UnknownError", "failed to connect: Connection reset by peer", True),
        ("AbortedError", HEARTBEAT, True),
        ("ValueError", "no column heartbeat in the data", False),
        ("InternalError", "out of memory", False),
        ("InvalidArgumentError", "the collective was aborted", False),
        ("InternalErrorOfMine", "heartbeat", False),
        ("UnknownError", "OSError: connection reset by my server\nTraceback (most recent call last):\n", False),
    ],
)
def test_which_exceptions_tell_of_a_lost_peer(kind, message, lost):
    story = Story().at(10).raised(0, kind, message)
    story.next()
    assert (story.watch.cause is None) == lost
    assert story.watch.in_trouble == lost


def test_a_worker_that_says_nothing_itself_is_judged_by_what_it_printed_last():
    story = Story().at(10).exited(0, 1, f"UnavailableError: {HEARTBEAT}")
    story.next()
    assert story.watch.cause is None
    story.at(10.1).exited(1, 3, "oh no")
    assert story.next() is Action.DONE
    assert (story.sentence, story.watch.restartable) == ("worker 1 exited with code 3", False)


def test_a_worker_that_aborts_after_it_lost_a_peer_is_no_cause():
    story = Story().at(10).exited(0, -6, f"F0000 {HEARTBEAT}")
    story.next()
    assert story.watch.cause is None
    story.next(frozen={1})
    assert story.sentence == "worker 1 stopped answering"


def test_a_worker_that_aborts_by_itself_is_a_cause():
    story = Story().at(10).exited(0, -6, "double free or corruption")
    story.next()
    assert story.sentence == "worker 0 was killed by SIGABRT"


def test_a_worker_that_refuses_its_configuration_gives_its_code():
    story = Story().at(10).exited(1, 2, "mode.heartbeat=x: connection reset")
    story.next()
    story.at(12).lost(0).exited(0, 1)
    story.next()
    assert (story.sentence, story.watch.code) == ("worker 1 exited with code 2", 2)


def test_a_wrong_configuration_has_code_2_though_its_worker_is_ended_before_it_exits():
    story = Story().at(10).raised(1, "ConfigError", "steps=x")
    story.next()
    story.at(13).next()
    story.at(13.1).exited(1, -15).exited(0, -15)
    story.next()
    assert (story.watch.code, story.watch.restartable) == (2, False)


def test_an_interruption_is_judged_by_the_exit_code():
    story = Story().at(10).raised(0, "SystemExit", "0").exited(0, 0).exited(1, 0)
    assert (story.next(), story.watch.code) == (Action.DONE, 0)


GRAPH = """Graph execution error:

Detected at node Log defined at (most recent call last):
  File "mine.py", line 3, in train_step

2 root error(s) found.
\t [[{{node Log}}]] [Op:__inference_step_36]"""


@pytest.mark.parametrize(
    ("message", "line"),
    [("", "E"), ("bad\nreally", "E: bad"), (" \n bad", "E: bad"), (GRAPH, "E: 2 root error(s) found.")],
)
def test_an_exception_is_reported_in_a_line(message, line):
    assert Report(at=0, type="E", message=message, traceback="").line == line


# --- who says nothing ------------------------------------------------------------------------------------------------


def test_where_all_errors_are_consequences_the_silent_worker_is_the_cause():
    story = Story(3).at(10).lost(0).exited(0, 1)
    assert story.next() is Action.WAIT
    assert story.at(15).lost(2).next() is Action.WAIT  # it has not exited, but it has spoken
    assert story.at(29.9).next() is Action.WAIT
    assert story.at(30).next() is Action.KILL
    story.exited(1, -9).exited(2, -9)
    assert story.next() is Action.DONE
    assert (story.sentence, story.watch.code, story.watch.restartable) == ("worker 1 stopped answering", 1, True)
    assert (story.watch.first_sign, story.watch.known_at) == (10, 30)


def test_a_frozen_worker_is_the_cause_at_once():
    story = Story().at(10).lost(0)
    assert story.next(frozen={1}) is Action.KILL
    assert story.sentence == "worker 1 stopped answering"


def test_a_frozen_worker_is_left_alone_while_nobody_misses_it():
    assert Story().at(10).next(frozen={1}) is Action.WAIT


def test_a_worker_that_freezes_as_it_ends_is_found_though_nobody_misses_it():
    story = Story().at(30).exited(0, 0)
    assert story.watch.in_trouble
    assert story.at(49).next(frozen={1}) is Action.WAIT, "it may go on in a moment"
    assert story.at(900).next() is Action.WAIT, "one that is only slow is left alone"
    assert story.next(frozen={1}) is Action.KILL
    assert story.sentence == "worker 1 stopped answering after others had finished"
    assert story.at(901).exited(1, -9).next() is Action.DONE
    assert story.watch.restartable


def test_a_worker_that_is_frozen_while_all_wait_for_it_to_join_is_not_waited_for_until_the_end():
    story = Story(joined=False)
    assert story.at(19).next(frozen={1}) is Action.WAIT, "a slow start may look so for a moment"
    assert story.watch.in_trouble
    assert story.at(20).next(frozen={1}) is Action.KILL
    assert story.sentence == "worker 1 stopped answering before all had joined"


def test_workers_that_lost_each_other_are_started_again():
    story = Story().at(10).lost(1).at(11).lost(0).exited(0, 1).exited(1, 1)
    assert story.next() is Action.DONE
    assert story.sentence == f"workers 0 and 1 lost their peers: UnavailableError: {HEARTBEAT}"
    assert (story.watch.code, story.watch.restartable) == (1, True)


def test_a_worker_that_was_done_too_early_is_named():
    story = Story().at(10).exited(1, 0).at(12).lost(0).exited(0, 1)
    story.next()
    assert story.sentence.startswith("worker 0 lost its peers after worker 1 had finished: Unavail")


def test_the_silent_worker_speaks_in_time():
    story = Story().at(10).lost(0)
    story.next()
    story.at(29).raised(1)
    story.next()
    assert story.sentence == "worker 1 failed: ValueError: bad"


# --- who never came --------------------------------------------------------------------------------------------------


def test_who_has_not_joined_in_time_is_missing():
    story = Story(3, joined=False)
    story.watch.ready(1, 4)
    assert story.at(59.9).next() is Action.WAIT
    assert story.at(60).next() is Action.KILL
    story.exited(0, -9).exited(1, -9).exited(2, -9)
    assert story.next() is Action.DONE
    assert story.sentence == "workers 0 and 2 did not join within 60 s (workers 0 and 2 never looked for the others)"
    assert (story.watch.code, story.watch.restartable) == (1, True)


def test_how_far_each_came_is_reported():
    story = Story(4, joined=False)
    for worker in (0, 3):
        story.watch.waiting(worker)
    story.at(5).exited(2, 0).at(60).next()
    assert story.sentence == (
        "workers 1 and 2 did not join within 60 s (worker 1 never looked for the others, worker 2 had finished before, "
        "workers 0 and 3 waited)"
    )
    assert story.watch.followers == [0, 3]


def test_where_all_wait_all_are_named():
    story = Story(joined=False)
    for worker in range(2):
        story.watch.waiting(worker)
    story.at(60).next()
    assert story.sentence == "workers 0 and 1 did not join within 60 s (workers 0 and 1 waited)"
    story.exited(0, -9).exited(1, -9).next()
    assert not story.watch.restartable  # they would only wait again


def test_who_left_without_joining_would_do_it_again():
    story = Story(joined=False).at(5).exited(1, 0).at(60)
    story.watch.ready(0, 5)
    assert story.next() is Action.KILL
    assert story.sentence == "worker 1 did not join within 60 s (worker 1 had finished before)"
    assert not story.watch.restartable


def test_when_all_have_joined_is_known():
    story = Story(joined=False)
    story.watch.ready(1, 3)
    assert story.watch.joined_at is None
    story.watch.ready(0, 5)
    story.watch.ready(0, 6)
    assert story.watch.joined_at == 5


# --- what is done about it -------------------------------------------------------------------------------------------


def test_the_others_get_time_then_sigterm_then_sigkill():
    story = Story().at(10).raised(1)
    assert story.next() is Action.WAIT
    assert story.at(12.9).next() is Action.WAIT
    assert story.at(13).next() is Action.TERMINATE
    assert story.at(14.9).next() is Action.WAIT
    assert story.at(15).next() is Action.KILL
    assert story.at(24.9).next() is Action.WAIT
    assert story.at(25).next() is Action.DONE, "a process that cannot be killed is not waited for"
    assert (story.watch.code, story.watch.followers) == (1, [0])


def test_what_the_launchers_own_signals_do_is_no_cause():
    story = Story(3).at(10).lost(0).exited(0, 1)
    assert story.next(frozen={1}) is Action.KILL
    story.at(10.1).raised(2).exited(1, -9).exited(2, 1)
    assert story.next() is Action.DONE
    assert story.sentence == "worker 1 stopped answering"
    assert story.watch.others == []


def test_what_was_written_before_the_launcher_acted_is_the_cause_though_it_is_seen_later():
    story = Story(3).at(10).lost(0).exited(0, 1)
    story.at(30).next()
    story.at(29).raised(2)
    story.at(30.1).exited(1, -9).exited(2, -9)
    assert story.next() is Action.DONE
    assert story.sentence == "worker 2 failed: ValueError: bad"


@pytest.mark.parametrize(("signum", "code"), [(2, 130), (15, 143)])
def test_a_signal_is_passed_on_once_and_waited_for(signum, code):
    story = Story().at(10).signal(signum)
    assert story.next() is Action.FORWARD
    assert story.at(100).next() is Action.WAIT
    story.exited(0, code).exited(1, -signum)
    assert story.next() is Action.DONE
    assert (story.watch.code, story.watch.cause, story.watch.restartable) == (code, None, False)


def test_a_second_signal_ends_them_at_once():
    story = Story().at(10).signal(2)
    story.next()
    assert story.signal(2).next() is Action.KILL
    story.exited(0, -9).exited(1, -9)
    assert (story.next(), story.watch.code) == (Action.DONE, 130)


def test_workers_that_do_not_stop_are_ended_some_time():
    story = Story().at(10).signal(15)
    story.next()
    assert story.at(309).next() is Action.WAIT
    assert story.at(310).next() is Action.KILL


def test_workers_that_have_not_joined_have_nothing_to_save():
    story = Story(joined=False).at(10).exited(1, -15)
    assert story.at(12.9).next() is Action.WAIT
    assert story.at(13).next() is Action.KILL
    story.exited(0, -9)
    assert (story.next(), story.watch.code) == (Action.DONE, 143)


def test_a_failure_while_stopping_is_a_failure_and_no_reason_to_start_again():
    story = Story().at(10).signal(15)
    story.next()
    story.at(11).exited(1, -9).exited(0, 143)
    assert story.next() is Action.DONE
    assert (story.sentence, story.watch.code, story.watch.restartable) == ("worker 1 was killed by SIGKILL", 1, False)


def test_a_run_that_was_done_when_it_was_told_to_stop_is_done():
    story = Story().at(10).signal(15)
    story.next()
    story.exited(0, 0).exited(1, 0)
    assert (story.next(), story.watch.code) == (Action.DONE, 0)


def test_a_frozen_worker_does_not_keep_the_others_from_stopping():
    story = Story().at(10).signal(15)
    story.next()
    story.at(12).lost(0).exited(0, 1)
    assert story.next(frozen={1}) is Action.KILL
    story.exited(1, -9)
    assert (story.next(), story.watch.code, story.watch.restartable) == (Action.DONE, 143, False)


def test_a_worker_told_to_stop_takes_the_others_with_it():
    story = Story().at(10).exited(1, 143)
    assert story.next() is Action.WAIT
    assert story.at(200).next() is Action.WAIT, "they may be saving"
    story.exited(0, 143)
    assert story.next() is Action.DONE
    assert (story.watch.code, story.watch.stopped_by.name, story.watch.restartable) == (143, "SIGTERM", False)


def test_a_worker_told_to_stop_is_no_crash_where_the_others_did_not_know():
    story = Story().at(10).exited(1, -15).at(12).lost(0).exited(0, 1)
    assert (story.next(), story.watch.code, story.watch.restartable) == (Action.DONE, 143, False)


def test_workers_that_never_follow_one_told_to_stop_are_ended_some_time():
    story = Story().at(10).exited(1, 143)
    story.next()
    assert story.at(310).next() is Action.KILL
    story.exited(0, -9)
    assert (story.next(), story.watch.code) == (Action.DONE, 143)
