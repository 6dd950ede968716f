"""Variants of a network, and students: what is measured, kept and refused."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

import tlcourse as tl
from tlcourse.lessons.distillation import Distilled, distillation_loss
from tlcourse.lessons.experiments import Trained, describe
from tlcourse.lessons.variants import Variants, latency


@pytest.fixture(scope="module")
def pets():
    return tl.data.load("toypets", model=tl.models.create("tl_resnet"), train=40, val=20, test=20)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return tl.models.create("tl_resnet", 2).eval()


@pytest.fixture
def way(network):
    teacher = Trained(lr=1e-3, passes=1)
    return Distilled(teacher, lr=1e-3, steps=3, teachers={(20, 0): network})


def test_a_variant_is_compared_with_the_original(network, pets):
    variants = Variants(network, pets.val)
    variants.add("original", network, 2_000_000)
    other = tl.models.create("test_resnet", 2, weights=None).eval()
    table = variants.add("other", other, 500_000)
    assert [row["variant"] for row in table] == ["original", "other"]
    assert variants["original"].same == 1.0
    assert 0.7 < variants["original"].speed < 1.4
    assert variants["other"].speed > 1.2
    assert table[1]["MB"] == 0.5
    measured = tl.evaluation.evaluate(network, pets.loaders().val)
    assert variants["original"].accuracy == measured.accuracy
    variants.plot(title="Two variants")
    plt.close("all")


def test_latency_counts_processor_time(network):
    one = latency(network, torch.zeros(1, 3, 64, 64), seconds=0.05)[0]
    eight = latency(network, torch.zeros(8, 3, 64, 64), seconds=0.05)[0]
    assert eight > 2 * one


def test_the_loss_has_its_least_gradient_at_the_teachers_answer():
    teacher = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    student = teacher.clone().requires_grad_()
    distillation_loss(student, teacher, 3.0).backward()
    assert student.grad.abs().max() < 1e-6
    student = torch.zeros(2, 2, requires_grad=True)
    distillation_loss(student, teacher, 1.0).backward()
    assert torch.allclose(student.grad, (0.5 - teacher.softmax(1)) / 2)


def test_students_repeat_and_are_kept(way, pets):
    first = way.fit(pets, 20, 0)
    assert way.fit(pets, 20, 0) is first
    again = replace(way).fit(pets, 20, 0)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert first.preprocessing == pets.preprocessing
    assert way(pets, 20, 0).n == 20
    assert "teachers" not in describe(way)


def test_answers_are_for_the_images_in_order_and_read_no_label(way, pets, network):
    answers = way._answers(pets, pets, 20, 0)
    image = pets.plain().train[7][0][None]
    with torch.no_grad():
        assert torch.allclose(answers[7], network.eval()(image)[0], atol=0.1)
    wrong = pets.with_label_noise(0.4)
    first, again = way.fit(pets, 20, 0), replace(way).fit(wrong, 20, 0)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    labels = replace(way, learns="labels")
    assert not torch.equal(labels.fit(pets, 20, 0).fc.weight, replace(labels).fit(wrong, 20, 0).fc.weight)


def test_a_student_learns_what_it_can(way):
    with pytest.raises(ValueError, match="labelled"):
        replace(way, images="some")
    with pytest.raises(ValueError, match="answers"):
        replace(way, learns="soft")
