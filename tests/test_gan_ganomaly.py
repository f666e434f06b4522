"""GANomaly, Skip-GANomaly, SCADN, OCR-GAN: losses by their formulas, and what each network may see."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adlearn.methods.gan import (
    OCRGAN,
    SCADN,
    ChannelSelection,
    GANomaly,
    SkipGANomaly,
    TwoBands,
    contextual_loss,
    squared_mean,
    stripe_masks,
)

SMALL = {"size": 32, "code": 8, "width": 4}


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def built(cls, **arguments):
    detector = cls(**SMALL | arguments)
    detector.network.eval()
    return detector


def test_the_contextual_loss_is_that_of_images_between_minus_1_and_1():
    images, drawn = rand(3, 3, 4, 4), rand(3, 3, 4, 4, seed=1)
    torch.testing.assert_close(contextual_loss(images, drawn), F.l1_loss(2 * images - 1, 2 * drawn - 1))


def test_the_score_is_the_mean_squared_difference_of_each_code():
    first, second = rand(3, 8, 1, 1), rand(3, 8, 1, 1, seed=1)
    expected = [np.mean((first[b].numpy() - second[b].numpy()) ** 2) for b in range(3)]
    np.testing.assert_allclose(squared_mean(first, second), expected, rtol=1e-6)


def test_ganomalys_loss_is_the_weighted_sum_of_the_papers_terms():
    detector, images = built(GANomaly, weights=(0.7, 30.0, 2.0)), rand(4, 3, 32, 32)
    networks = detector.network["G"]
    code = networks["encode"](images)
    drawn = networks["decode"](code)
    second = networks["again"](drawn)
    inside = detector.network["D"][:-1]
    adversarial = (inside(images) - inside(drawn)).square().mean()
    expected = (
        0.7 * adversarial + 30 * 2 * (images - drawn).abs().mean() + 2 * (code - second).square().mean()
    )
    torch.testing.assert_close(detector.generator_loss(images), expected)


def test_the_discriminators_loss_is_cross_entropy_and_leaves_the_generator_alone():
    detector, images = built(GANomaly), rand(4, 3, 32, 32)
    loss = detector.discriminator_loss(images)
    drawn = detector.drawn(images)[1]
    logits = [detector.network["D"](x).flatten() for x in (images, drawn)]
    expected = sum(
        F.binary_cross_entropy_with_logits(x, torch.full_like(x, target))
        for x, target in zip(logits, (1.0, 0.0), strict=True)
    )
    torch.testing.assert_close(loss, expected / 2)
    loss.backward()
    assert all(p.grad is None for p in detector.network["G"].parameters())


def test_the_second_encoder_has_weights_of_its_own_and_all_three_parts_learn(tiny):
    detector = GANomaly(**SMALL, epochs=1, batch_size=4)
    before = {k: v.clone() for k, v in detector.network.state_dict().items()}
    detector.fit(tiny.train)
    after = detector.network.state_dict()
    for part in ("G.encode", "G.decode", "G.again", "D"):
        names = [k for k in after if k.startswith(part) and k.endswith("weight")]
        assert names and all(not torch.equal(before[k], after[k]) for k in names)
    assert not torch.equal(after["G.encode.0.weight"], after["G.again.0.weight"])


def test_the_score_is_never_scaled_by_other_images(tiny):
    detector = GANomaly(**SMALL, epochs=2, batch_size=4).fit(tiny.train)
    images = tiny.test.images()
    code, _, second = detector.drawn(detector.reduced(images))
    torch.testing.assert_close(detector.predict(images).score, squared_mean(code, second))


def test_skip_ganomalys_score_weighs_residual_and_features():
    detector, images = built(SkipGANomaly, balance=0.8), rand(3, 3, 32, 32)
    with torch.no_grad():
        drawn, score = detector.restored(images)
        inside = detector.network["D"][:-1]
        features = (inside(images) - inside(drawn)).square().mean(dim=(1, 2, 3))
    residual = (2 * images - 2 * drawn).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(score, 0.8 * residual + 0.2 * features)


def test_skip_ganomalys_generator_wants_to_be_taken_for_real():
    detector, images = built(SkipGANomaly, weights=(1.0, 0.0, 0.0)), rand(3, 3, 32, 32)
    logits = detector.network["D"](detector.drawn(images)[1]).flatten()
    expected = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    torch.testing.assert_close(detector.generator_loss(images), expected)


def test_stripes_take_every_pixel_away_once_for_each_width_and_direction():
    masks = stripe_masks(16, (2, 4))
    assert masks.shape == (8, 16, 16)
    assert masks.unique().tolist() == [0, 1]
    torch.testing.assert_close(masks.sum(dim=0), torch.full((16, 16), 4.0))
    for k in range(0, 8, 2):
        torch.testing.assert_close(masks[k] + masks[k + 1], torch.ones(16, 16))
    assert masks[0, :, 0].tolist() == [0, 0, 1, 1] * 4


def test_what_is_taken_away_does_not_reach_the_drawing():
    detector, images = built(SCADN, stripes=(4,)), rand(2, 3, 32, 32)
    mask = detector.masks[:1, None].expand(2, -1, -1, -1)
    other = torch.where(mask.bool(), rand(2, 3, 32, 32, seed=1), images)
    with torch.no_grad():
        first, second = detector.filled(images, mask), detector.filled(other, mask)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first * (1 - mask), images * (1 - mask))


def test_scadns_drawing_is_the_mean_of_unseen_drawings():
    detector, images = built(SCADN, stripes=(4, 8)), rand(2, 3, 32, 32)
    with torch.no_grad():
        drawn, score = detector.restored(images)
        total = torch.zeros_like(images)
        for mask in detector.masks:
            total += mask * detector.filled(images, mask.expand(2, 1, -1, -1))
    torch.testing.assert_close(drawn, total / 4)
    torch.testing.assert_close(score, (images - drawn).square().mean(dim=(1, 2, 3)))


def test_channel_selection_is_a_weighted_mean_of_both():
    torch.manual_seed(0)
    select, first, second = ChannelSelection(8), rand(2, 8, 3, 3), rand(2, 8, 3, 3, seed=1)
    for mixed in select(first, second):
        share = (mixed - second) / (first - second)
        assert share.min() > 0 and share.max() < 1
        spread = share.flatten(2).amax(dim=2) - share.flatten(2).amin(dim=2)
        assert spread.max() < 1e-3
    same = select(first, first)
    torch.testing.assert_close(same[0], first)


def test_the_two_bands_add_up_to_the_image_and_blur_is_the_low_one():
    bands = TwoBands(4, 3)
    low, high = bands.bands(rand(2, 3, 32, 32))
    torch.testing.assert_close(low + high, rand(2, 3, 32, 32))
    flat_low, flat_high = bands.bands(torch.full((1, 3, 32, 32), 0.4))
    torch.testing.assert_close(flat_low, torch.full((1, 3, 32, 32), 0.4))
    assert flat_high.abs().max() < 1e-6
    assert low.std() < high.std()


def test_ocr_gan_compares_the_drawing_of_damaged_images_with_clean_ones():
    detector, images = built(OCRGAN, weights=(0.0, 1.0, 0.0)), rand(4, 3, 32, 32)
    shown = []
    detector.network["G"].register_forward_hook(lambda _, inputs, output: shown.append((inputs[0], output)))
    torch.manual_seed(0)
    loss = detector.generator_loss(images)
    ((damaged, output),) = shown
    assert not torch.equal(damaged, images)
    torch.testing.assert_close(loss, contextual_loss(images, output.sigmoid()))


def test_ocr_gans_discriminator_sees_drawings_of_damaged_images_and_clean_ones():
    detector, images = built(OCRGAN), rand(4, 3, 32, 32)
    given, judged = [], []
    detector.network["G"].register_forward_hook(lambda _, inputs, output: given.append((inputs[0], output)))
    detector.network["D"].register_forward_hook(lambda _, inputs, __: judged.append(inputs[0]))
    detector.discriminator_loss(images)
    ((damaged, output),) = given
    assert not torch.equal(damaged, images)
    assert torch.equal(judged[0], images)
    torch.testing.assert_close(judged[1], output.sigmoid())


@pytest.mark.parametrize("cls", [GANomaly, SkipGANomaly, SCADN, OCRGAN])
def test_training_records_diversity_before_each_epoch_and_after_the_last(cls, tiny):
    detector = cls(**SMALL, epochs=2, batch_size=4).fit(tiny.train)
    assert detector.history.shape == (2, 2) and detector.spread.shape == (3,)
