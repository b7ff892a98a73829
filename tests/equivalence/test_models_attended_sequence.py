"""Attention that the recurrence reads, in compiled steps, is the loop over the equations: values and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

from freerun.architecture import ATTENTIONS
from freerun.forcing.draw import Draw
from freerun.forcing.replay import encode
from freerun.forcing.rollout import aligned_pass, aligned_rollout, free_pass, free_rollout, uniforms
from freerun.forcing.training_batch import Update
from freerun.models import decoder as decoders
from freerun.symbols import EOS, NEVER_WRITTEN
from freerun.training.precision import autocast, bf16_is_fast
from tests.networks import (
    COMPILED_CELLS,
    RATES,
    SOME_OF_ALL,
    close,
    gradients_of,
    network,
    random_features,
    random_rows,
    some_of,
    training_batch,
    with_features,
)

BATCH = training_batch(random_rows([4, 1, 6, 4]), random_rows([4, 6, 1, 2], size=9, seed=1))
UPDATE = Update(number=7, seed=3)
RECURRENT = [
    *((name, False) for name, spec in ATTENTIONS.items() if spec.within_recurrence),
    *((name, True) for name, spec in ATTENTIONS.items() if spec.feeds_input),
]
each_attention = pytest.mark.parametrize(("attention", "input_feeding"), RECURRENT)
each_cell = pytest.mark.parametrize("cell", COMPILED_CELLS)


def both(attention="bahdanau", input_feeding=False, **options):
    """Return the model with compiled steps, and the same one with the loop."""
    sizes = {"attention": attention, "input_feeding": input_feeding, "bidirectional": attention != "dot", **options}
    return [network(backend=backend, **sizes) for backend in ("auto", "reference")]


def results_of(model, batch=BATCH, fed=None, rows=None):
    """Return everything that a pass gives: features, each layer's outputs, the last state."""
    encoded, masks = encode(model, batch, UPDATE)
    if rows is not None:
        encoded, masks = encoded.select(rows), masks and masks.target_rows(rows)
    decoded = model.decoder.sequence(batch.target_in_BT if fed is None else fed, encoded, masks)
    states = [each for each in (decoded.state.h_LBH, decoded.state.c_LBH) if each is not None]
    return [decoded.features_TBF, *decoded.layers_TBH, *states]


def same(models, tolerance=1e-10, **how):
    """Fail unless values and gradients of all results agree."""
    found, expected = (results_of(model, **how) for model in models)
    close(found, expected, tolerance)
    close(
        *(gradients_of(some_of(*each), model) for each, model in zip((found, expected), models, strict=True)), tolerance
    )


@each_cell
@each_attention
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_values_and_gradients_are_those_of_the_loop(cell, attention, input_feeding, num_layers, dropout):
    options = {"cell": cell, "num_layers": num_layers, **dict.fromkeys(RATES, dropout)}
    same(both(attention, input_feeding, **options))


@each_attention
@pytest.mark.parametrize("dropout", [0.3, 0.0])
@pytest.mark.parametrize("options", [{"context": "every_step"}, {"tied_output": True}, {"bidirectional": False}])
def test_it_goes_with_everything_else_that_a_step_reads(attention, input_feeding, options, dropout):
    same(both(attention, input_feeding, **dict.fromkeys(RATES, dropout), **options))


@pytest.mark.parametrize("kind", ["summary", "sequence", "both"])
def test_features_are_read_at_every_step(kind):
    features = random_features([2, 0, 3, 1])
    batch = training_batch(random_rows([4, 1, 6, 4]), random_rows([4, 6, 1, 2], size=9, seed=1), features)
    same(both(**SOME_OF_ALL, **with_features(kind)), batch=batch)


@each_attention
def test_a_large_vocabulary_has_a_table_of_the_tokens_fed(attention, input_feeding):
    """The batch has fewer positions than the vocabulary has tokens."""
    batch = training_batch(random_rows([4]), random_rows([3], size=9, seed=1))
    same(both(attention, input_feeding, embedding_dropout=0.3), batch=batch)


@each_attention
def test_rows_of_a_source_share_its_memory(attention, input_feeding):
    """Outputs of a source, as minimum risk scores them: their gradients of keys and values add up."""
    found = []
    for model in both(attention, input_feeding):
        encoded, _ = encode(model, BATCH, UPDATE)
        rows = torch.arange(4).repeat_interleave(3)
        each = decoders.replace(encoded.select_rows(rows), memory=encoded.memory)
        fed = torch.randint(3, 9, (12, 5), generator=torch.Generator().manual_seed(1))
        features = model.decoder.sequence(fed, each).features_TBF
        found.append((features, gradients_of(some_of(features), model)))
    close(*found)


@each_attention
def test_a_pass_goes_on_from_a_step(attention, input_feeding):
    """With input feeding its first step reads what the step before left, and passes a gradient back to it."""
    found = []
    for model in both(attention, input_feeding):
        encoded, _ = encode(model, BATCH, UPDATE)
        _, after = model.decoder.step(BATCH.target_in_BT[:, 0], encoded, model.decoder.tables())
        decoded = model.decoder.sequence(BATCH.target_in_BT[:, 1:], after)
        found.append((decoded.features_TBF, gradients_of(some_of(decoded.features_TBF), model)))
    close(*found)


@each_attention
def test_sources_may_have_no_padding(attention, input_feeding):
    found = []
    for model in both(attention, input_feeding):
        features = model.decoder.sequence(BATCH.target_in_BT, model.encode(BATCH.source_BS, None)).features_TBF
        found.append((features, gradients_of(some_of(features), model)))
    close(*found)


@each_cell
@each_attention
def test_gradients_are_those_of_finite_differences(cell, attention, input_feeding):
    (model, _) = both(attention, input_feeding, cell=cell, num_layers=1, hidden_size=3)
    parameters = dict(model.named_parameters())

    def loss():
        return some_of(*results_of(model))

    names = [name for name in parameters if name.startswith("decoder.")]
    found = gradients_of(loss(), model)
    step = 1e-6
    for name, gradient in ((name, found[name]) for name in names):
        flat = parameters[name].data.view(-1)
        place = int(gradient.abs().argmax())
        before = flat[place].item()
        values = []
        for sign in (1, -1):
            flat[place] = before + sign * step
            values.append(loss().item())
        flat[place] = before
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient.reshape(-1)[place].item(), abs=1e-6), name


@each_attention
def test_each_result_has_its_gradient_alone(attention, input_feeding):
    models = both(attention, input_feeding)
    for part in range(5):
        found = []
        for model in models:
            result = results_of(model)[part]
            found.append(gradients_of(some_of(result), model))
        close(*found)


@each_attention
def test_a_graph_can_be_gone_back_through_twice(attention, input_feeding):
    (model, _) = both(attention, input_feeding, **SOME_OF_ALL)
    results = results_of(model)
    d_results = [torch.ones_like(each) for each in results]
    wanted = [each for name, each in model.named_parameters() if name.startswith("decoder.layers.")]
    first, second = (torch.autograd.grad(results, wanted, d_results, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all((each == 1).all() for each in d_results)


@each_attention
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5)])
def test_float32_is_near(attention, input_feeding, dtype, tolerance):
    same(both(attention, input_feeding, dtype=dtype, dropout=0.3), tolerance)


@pytest.mark.skipif(not bf16_is_fast(), reason="autocast needs a processor with bf16")
@each_cell
@each_attention
def test_bf16_rounds_operands_of_matmuls_only(cell, attention, input_feeding):
    """Compared with float32 of the same weights; the loop under autocast is no nearer."""
    # with this seed rounding changes the choice of no maxout unit, where the gradient has a jump
    options = {"cell": cell, "hidden_size": 16, "num_layers": 1, "dtype": torch.float32, "scale": 0.3, "seed": 3}
    compiled, loop = both(attention, input_feeding, **options)
    exact, _ = both(attention, input_feeding, **options)
    expected = results_of(exact)[0]
    d_expected = gradients_of(some_of(expected), exact)
    errors = []
    for model in (compiled, loop):
        with autocast("bf16", "cpu"):
            features = results_of(model)[0].float()
        found = gradients_of(some_of(features), model)
        squares = sum((found[name] - each).square().sum() for name, each in d_expected.items())
        total = sum(each.square().sum() for each in d_expected.values())
        errors.append(((features - expected).abs().max().item(), (squares / total).sqrt().item()))
    assert errors[0][0] < 0.01 and errors[0][1] < 0.02
    assert errors[0][1] < 1.5 * errors[1][1]


# -- tokens chosen on the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("draw", ["sample", "argmax"])
@each_attention
def test_an_aligned_rollout_and_its_pass_are_one(attention, input_feeding, draw, backend):
    """The tokens are those of a rollout; losses and gradients those of a second pass over them, to the last bits."""
    sizes = {"attention": attention, "input_feeding": input_feeding, **SOME_OF_ALL}
    model = network(scale=1.5, backend=backend, **sizes)
    draws, numbers = BATCH.replaceable_BT, uniforms(UPDATE, "draws", *BATCH.target_in_BT.shape)
    given = (BATCH.target_in_BT, draws, numbers, Draw(draw, banned=(*NEVER_WRITTEN, EOS)))
    encoded, masks = encode(model, BATCH, UPDATE)
    fed, decoded = aligned_pass(model.decoder, encoded, *given, masks)
    assert torch.equal(fed, aligned_rollout(model.decoder, encoded, *given, masks))
    assert not torch.equal(fed, BATCH.target_in_BT)
    twice = model.decoder.sequence(fed, encoded, masks)
    found = [(each.features_TBF, gradients_of(some_of(each.features_TBF), model)) for each in (decoded, twice)]
    close(*found, 1e-13)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@each_attention
def test_a_free_rollout_and_its_pass_are_one(attention, input_feeding, backend):
    sizes = {"attention": attention, "input_feeding": input_feeding, **SOME_OF_ALL}
    model = network(scale=1.5, backend=backend, **sizes)
    bounds, ends = torch.tensor([12, 3, 7, 12]), torch.tensor([8, 2, 6, 5])
    encoded, masks = encode(model, BATCH, UPDATE, 12)

    def choose(t, drawn):
        return torch.where(ends == t, EOS, drawn)  # all rows end before the largest bound

    given = (bounds, uniforms(UPDATE, "free", 4, 12), Draw("sample", banned=NEVER_WRITTEN), masks, choose)
    run, decoded = free_pass(model.decoder, encoded, *given)
    again = free_rollout(model.decoder, encoded, *given)
    assert torch.equal(run.fed_BT, again.fed_BT) and torch.equal(run.written_BT, again.written_BT)
    steps = run.fed_BT.shape[1]
    assert len(decoded.features_TBF) == len(decoded.layers_TBH[0]) == steps == int(run.lengths_B.max())
    twice = model.decoder.sequence(run.fed_BT, encoded, masks.first_steps(steps))
    real = torch.arange(steps).unsqueeze(1) < run.lengths_B
    assert not real.all()  # a row has ended before the others
    found = [
        (each.features_TBF[real], gradients_of(some_of(each.features_TBF[real]), model)) for each in (decoded, twice)
    ]
    close(*found, 1e-13)
    longest = run.lengths_B == steps  # the others were fed something else at the end
    assert steps < 12
    close(*([each.state.h_LBH[:, longest], each.state.c_LBH[:, longest]] for each in (decoded, twice)), 1e-13)


@each_attention
def test_every_token_can_be_chosen_in_a_rollout_of_few_steps(attention, input_feeding):
    """It has fewer positions than the vocabulary has tokens, but which of them will be fed is not known beforehand."""
    batch, tokens, found = training_batch(random_rows([4]), random_rows([3], size=9, seed=1)), [8, 7, 5], []
    for model in both(attention, input_feeding, embedding_dropout=0.3):
        encoded, masks = encode(model, batch, UPDATE)

        def choose(t, features):
            return torch.tensor([tokens[t]])

        decoded, fed = model.decoder.roll_out(batch.target_in_BT[:, 0], 3, encoded, choose, masks)
        assert fed[0, 1:].tolist() == tokens[:2]
        found.append((decoded.features_TBF, gradients_of(some_of(decoded.features_TBF), model)))
    close(*found)


@pytest.mark.skipif(not bf16_is_fast(), reason="autocast needs a processor with bf16")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@each_attention
def test_choices_in_bf16_leave_the_gradients_alone(attention, input_feeding, backend):
    """Autocast remembers a weight's bf16 copy; one that was made without gradients must not be used with them."""
    sizes = {"attention": attention, "input_feeding": input_feeding, "dtype": torch.float32, "backend": backend}
    model = network(**sizes)
    draws, numbers = BATCH.replaceable_BT, uniforms(UPDATE, "draws", *BATCH.target_in_BT.shape)
    with autocast("bf16", "cpu"):
        encoded, _ = encode(model, BATCH, UPDATE)
        given = (BATCH.target_in_BT, draws, numbers, Draw("argmax", banned=(*NEVER_WRITTEN, EOS)))
        _, decoded = aligned_pass(model.decoder, encoded, *given)
        loss = some_of(model.decoder.logits(decoded.features_TBF).float())
    missing = [name for name, each in gradients_of(loss, model).items() if not each.any()]
    assert not missing


def test_a_rollout_without_gradients_makes_the_same_steps():
    """Under ``no_grad`` too, where a search would step in torch's operations."""
    (model, _) = both()
    encoded, _ = encode(model, BATCH, UPDATE, 9)
    given = (torch.full((4,), 9), uniforms(UPDATE, "free", 4, 9), Draw("argmax", banned=NEVER_WRITTEN))
    run, decoded = free_pass(model.decoder, encoded, *given)
    with torch.no_grad():
        again, without = free_pass(model.decoder, encoded, *given)
    assert torch.equal(run.fed_BT, again.fed_BT)
    assert torch.equal(decoded.features_TBF, without.features_TBF) and not without.features_TBF.requires_grad


def test_choices_are_made_without_gradients_and_under_the_same_precision():
    for model, precise in itertools.product(both(dtype=torch.float32), [True, False]):
        if not precise and not bf16_is_fast():
            continue
        seen = []

        def choose(t, features, seen=seen, model=model):
            seen.append((t, torch.is_grad_enabled(), model.decoder.logits(features).dtype))
            return torch.full((4,), 5)

        with autocast("fp32" if precise else "bf16", "cpu"):
            encoded, _ = encode(model, BATCH, UPDATE)
            _, fed = model.decoder.roll_out(BATCH.target_in_BT[:, 0], 3, encoded, choose)
        dtype = torch.float32 if precise else torch.bfloat16
        assert seen == [(t, False, dtype) for t in range(3)]
        assert fed.tolist() == [[BATCH.target_in_BT[0, 0].item(), 5, 5]] * 4


def test_predictions_do_not_load_the_compiler():
    import subprocess
    import sys

    program = (
        "import sys, torch\n"
        "from tests.networks import network, training_batch, random_rows\n"
        "from freerun.forcing.replay import encode_without_dropout\n"
        "model = network(attention='bahdanau')\n"
        "batch = training_batch(random_rows([4]), random_rows([3], size=9))\n"
        "with torch.no_grad():\n"
        "    model.decoder.sequence(batch.target_in_BT, encode_without_dropout(model, batch))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
