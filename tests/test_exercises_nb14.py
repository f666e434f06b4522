"""Each check of notebook 14 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch
import torch.nn.functional as F

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"14.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def caught(real, fake):
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def naive(real, fake):
    return -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()


def test_14_1_accepts_sum_or_mean_of_both_kinds():
    assert check("14.1", caught)
    assert check("14.1", lambda r, f: caught(r, f) / 2)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, f: F.softplus(-r) + F.softplus(f), "one number"),
        (lambda r, f: caught(r, f) + 1, "log 2"),
        (lambda r, f: caught(f, r), "surer"),
        (naive, "overflow"),
        (lambda r, f: F.softplus(-r).mean() + F.softplus(2 * f).mean(), "mean log"),
    ],
)
def test_14_1_rejects(answer, hint):
    rejects("14.1", answer, hint)


def covered(samples, centres, radius):
    return (torch.cdist(centres, samples).amin(dim=1) < radius).float().mean().item()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, c, r: covered(s, c, r) * len(c), "all four clusters"),
        (lambda s, c, r: (torch.cdist(s, c).amin(dim=1) < r).float().mean().item(), "one of four"),
        (lambda s, c, r: covered(s, c, 5 * r) if len(s) < 5 else covered(s, c, r), "one of four|cover none"),
        (lambda s, c, r: covered(s, c, r) if len(s) > 2 else 0.0, "Euclidean"),
        (lambda s, c, r: covered(s, c, 0.5), "that is given"),
    ],
)
def test_14_2_rejects(answer, hint):
    rejects("14.2", answer, hint)


def test_14_2_accepts_the_share_of_clusters():
    assert check("14.2", covered)


def searched(generator, images, start, steps=300, rate=0.1):
    latents = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (generator(latents) - images).square().sum().backward()
        optimizer.step()
    return latents.detach()


def in_place(generator, images, start):
    start.copy_(searched(generator, images, start))
    return start


def moving(generator, images, start):
    with torch.no_grad():
        generator.weight.add_(0.01)
    return searched(generator, images, start)


def test_14_3_accepts_the_search():
    assert check("14.3", searched)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda g, i, s: searched(g, i, s)[:1], "for each image"),
        (in_place, "work on a copy"),
        (moving, "the generator moved"),
        (lambda g, i, s: searched(g, i, s, steps=2), "error fell"),
        (lambda g, i, s: searched(g, i, s) + 0.01 * len(i), "another batch"),
        (lambda g, i, s: searched(g, i, s).requires_grad_(), "detach"),
    ],
)
def test_14_3_rejects(answer, hint):
    rejects("14.3", answer, hint)


def penalty(critic, real, fake, reach=1.0, power=1.0, share=None):
    share = torch.rand(len(real), 1) if share is None else share
    points = torch.lerp(real, fake, reach * share).requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (slope.norm(dim=1) ** power - 1).square().mean()


def test_14_4_accepts_the_penalty():
    assert check("14.4", penalty)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda c, r, f: penalty(c, r, f).view(1), "one number"),
        (lambda c, r, f: penalty(c, r, f, power=2.0), "slope 5"),
        (lambda c, r, f: penalty(c, r, f, share=torch.tensor(0.5)), "random point"),
        (lambda c, r, f: penalty(c, r, f, reach=2.0), "not beyond"),
    ],
)
def test_14_4_rejects(answer, hint):
    rejects("14.4", answer, hint)


def test_14_4_wants_gradients_for_the_critic():
    def cut(critic, real, fake):
        return penalty(critic, real, fake).detach() + 0 * fake.clone().requires_grad_().sum()

    rejects("14.4", cut, "create_graph")


def test_14_5():
    assert check("14.5", {"healthy": (1.0, 0.8), "collapsed": (0.1, 0.6)})
    rejects("14.5", [0.5], "dict")
    rejects("14.5", {"healthy": (1.0, 0.8)}, "two settings")
    rejects("14.5", {"healthy": (1.0, 0.8, 3.0), "collapsed": (0.1, 0.6)}, "two numbers")
    rejects("14.5", {"healthy": (1.0, 0.8), "collapsed": (-0.1, 0.6)}, "never negative")
    rejects("14.5", {"healthy": (1.0, 1.8), "collapsed": (0.1, 0.6)}, "between 0 and 1")
    rejects("14.5", {"healthy": (1.0, 0.8), "collapsed": (0.9, 0.6)}, "provoke a collapse")
