"""Kernels and bytes of small programs, against sums done by hand."""

import pytest

from soda_jax.performance import traffic
from soda_jax.performance.traffic import Share

GPU = """HloModule m, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%fused_norm (p: bf16[4,8,8,16]) -> (f32[4,16], bf16[4,8,8,16]) {
  %p = bf16[4,8,8,16]{3,2,1,0} parameter(0)
  %sum = f32[4,16]{1,0} reduce(%p, %p), to_apply=%add, metadata={op_name="jit(step)/jvp(SODA.encode)/norm1/reduce_sum"}
  ROOT %t = (f32[4,16]{1,0}, bf16[4,8,8,16]{3,2,1,0}) tuple(%sum, %p)
}

%fused_one_of_many (table: f32[100,16], at: s32[]) -> f32[1,16] {
  %table = f32[100,16]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %d = f32[1,16]{1,0} dynamic-slice(%table, %at, %zero), dynamic_slice_sizes={1,16}
}

%fused_in_place (all: f32[100,16], one: f32[1,16], at: s32[]) -> f32[100,16] {
  %all = f32[100,16]{1,0} parameter(0)
  %one = f32[1,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = f32[100,16]{1,0} dynamic-update-slice(%all, %one, %at, %zero)
}

%fused_ema (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  ROOT %m = f32[16]{0} multiply(%x, %x), metadata={op_name="jit(step)/ema/mul"}
}

%body (carry: (s32[], f32[100,16])) -> (s32[], f32[100,16]) {
  %carry = (s32[], f32[100,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %all.1 = f32[100,16]{1,0} get-tuple-element(%carry), index=1
  %row = f32[1,16]{1,0} fusion(%all.1, %i), kind=kLoop, calls=%fused_one_of_many, \
metadata={op_name="jit(step)/dropout/x"}
  %changed = f32[100,16]{1,0} fusion(%all.1, /*index=1*/%row, %i), kind=kLoop, calls=%fused_in_place
  ROOT %next = (s32[], f32[100,16]{1,0}) tuple(%i, %changed)
}

%condition (carry.1: (s32[], f32[100,16])) -> pred[] {
  %carry.1 = (s32[], f32[100,16]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x.1: bf16[4,8,8,16], k: bf16[16,3,3,16], c: (s32[], f32[100,16]), w: f32[16]) -> f32[16] {
  %x.1 = bf16[4,8,8,16]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,16]{3,2,1,0} parameter(1)
  %c = (s32[], f32[100,16]{1,0}) parameter(2)
  %w = f32[16]{0} parameter(3)
  %conv = (bf16[4,8,8,16]{3,2,1,0}, u8[5000]{0}) custom-call(%x.1, %k), window={size=3x3}, \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(SODA.encode)/conv1/conv_general_dilated"}
  %y = bf16[4,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %norm = (f32[4,16]{1,0}, bf16[4,8,8,16]{3,2,1,0}) fusion(%y), kind=kInput, calls=%fused_norm
  %back = (bf16[16,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %y), custom_call_target="__cudnn$convBackwardFilter", \
metadata={op_name="jit(step)/transpose(jvp(SODA.encode))/conv1/conv_general_dilated"}
  %loop = (s32[], f32[100,16]{1,0}) while(%c), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"},"known_induction_variable":{"tuple_index":"0"}}
  %start = f32[16]{0} all-reduce-start(%w), replica_groups={{0,1}}, to_apply=%add, \
metadata={op_name="jit(step)/ema/mul"}
  %done = f32[16]{0} all-reduce-done(%start)
  ROOT %new = f32[16]{0} fusion(%done), kind=kLoop, calls=%fused_ema
}
"""


def test_a_gpus_program():
    found = traffic.kernels(GPU)
    image, kernel, sums, row = 4 * 8 * 8 * 16 * 2, 16 * 9 * 16 * 2, 4 * 16 * 4, 16 * 4
    expected = [
        ("__cudnn$convForward", 1, image + kernel, image),  # its scratch of 5000 bytes is none of its results
        ("fusion:Input", 1, image, sums + image),
        ("__cudnn$convBackwardFilter", 1, 2 * image, kernel),
        ("all-reduce-start", 1, 64, 64),
        ("fusion:Loop", 1, 64, 64),
        ("fusion:Loop", 3, row + 4, row),  # of the table, the one row
        ("fusion:Loop", 3, row + 4, row),  # of what it changes, the one row
    ]
    assert [(one.kind, one.runs, one.read, one.written) for one in found] == expected
    assert {one.padding for one in found} == {0}
    assert traffic.shares(found) == (
        Share("convolutions, forward", 1, 2 * image + kernel, 0),
        Share("convolutions, backward", 1, 2 * image + kernel, 0),
        Share("optimiser, EMA", 1, 128, 0),
        # The change in place has no name; its first operand's leads to none either, and that of the row's is not asked.
        Share("dropout", 3, 3 * (2 * row + 4), 0),
        Share("norms", 1, 2 * image + sums, 0),
        Share("exchanges", 1, 128, 0),
        Share("other", 3, 3 * (2 * row + 4), 0),
    )


TPU = """HloModule m, is_scheduled=true

%inner (a: bf16[2,5,6,3], b: bf16[3,3,3,8]) -> bf16[2,5,6,8] {
  %a = bf16[2,5,6,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %v = bf16[2,5,6,8]{3,2,1,0:T(8,128)(2,1)} convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/transpose(jvp(SODA.denoise))/conv1/conv_general_dilated"}
}

%fused_conv (a.1: bf16[2,5,6,3], b.1: bf16[3,3,3,8]) -> f32[2,5,6,8] {
  %a.1 = bf16[2,5,6,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %b.1 = bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %f = bf16[2,5,6,8]{3,2,1,0:T(8,128)(2,1)} fusion(%a.1, %b.1), kind=kOutput, calls=%inner
  ROOT %e = f32[2,5,6,8]{3,2,1,0:T(8,128)} convert(%f), metadata={op_name="jit(step)/norm1/convert_element_type"}
}

%later (q: f32[300]) -> f32[300] {
  %q = f32[300]{0:T(512)} parameter(0)
  ROOT %n = f32[300]{0:T(512)} negate(%q), metadata={op_name="jit(step)/jvp(draw_noise)/neg"}
}

ENTRY %main (x: bf16[2,5,6,3], k: bf16[3,3,3,8], n.1: f32[300], s: s32[]) -> f32[300] {
  %x = bf16[2,5,6,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %n.1 = f32[300]{0:T(512)} parameter(2)
  %s = s32[]{:T(128)} parameter(3)
  %s.1 = s32[]{:T(128)S(6)} copy(%s)
  %begun = (bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%k)
  %there = bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%begun)
  %o = f32[2,5,6,8]{3,2,1,0:T(8,128)S(1)} fusion(%x, %there), kind=kOutput, calls=%fused_conv, \
metadata={op_name="jit(step)/norm1/convert_element_type"}
  %called = ((f32[300]{0:T(512)}), f32[300]{0:T(512)}, u32[]{:S(2)}) async-start(%n.1), calls=%later
  ROOT %end = f32[300]{0:T(512)} async-done(%called), calls=%later
}
"""


def test_a_tpus_program():
    """Arrays fill whole tiles, and what lies in the chip's own memory does not count."""
    found = traffic.kernels(TPU)
    kernel, image, noise = 3 * 3 * 8 * 128 * 2, 2 * 5 * 8 * 128 * 2, 512 * 4
    padding = kernel - 3 * 3 * 3 * 8 * 2, image - 2 * 5 * 6 * 3 * 2, 2 * (noise - 300 * 4)
    assert [(one.kind, one.read, one.written, one.padding, one.source) for one in found] == [
        ("copy", 4, 0, 0, "other"),
        ("copy-start", kernel, 0, padding[0], "other"),
        ("fusion:Output", image, 0, padding[1], "convolutions, backward"),
        ("negate", noise, noise, padding[2], "draws"),
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("jit(step)/optimizer/mul", "optimiser, EMA"),
        ("jit(step)/probe_optimizer/sub", "optimiser, EMA"),
        ("jit(step)/gradient_norms/reduce_sum", "optimiser, EMA"),
        ("state.ema_params['denoiser']['conv_out']['kernel']", "optimiser, EMA"),
        ("jit(step)/jvp(SODA.denoise)/checkpoint/rematted_computation/mul", "other"),
        ("jit(step)/jvp(SODA.encode)/encoder/stage1_unit1/drop_path/drop/lt", "dropout"),
        ("jit(step)/jvp(draw_noise)/vmap(jit(_normal))/add", "draws"),
        ("jit(step)/jvp(SODA.denoise)/denoiser/up_16_0_attention/norm/rsqrt", "attention"),
        ("jit(step)/jvp(SODA.denoise)/denoiser/up_16_0/modulation/group_norm/norm/mul", "norms"),
        ("jit(step)/jvp(SODA.denoise)/denoiser/up_16_0/modulation/add", "modulation"),
        ("jit(step)/jvp(SODA.encode)/encoder/stage1_unit1/jit(relu)/max", "activations"),
        ("jit(step)/jvp(SODA.denoise)/denoiser/concatenate", "concatenation"),
        ("jit(step)/transpose(jvp(SODA.denoise))/denoiser/up_16_0/add_any", "gradient sums"),
        ("jit(step)/jvp(probe)/LinearProbe/head/dot_general", "probe"),
        ("jit(step)/jvp(SODA.denoise)/denoiser/up_32_0/shortcut/convert_element_type", "around convolutions"),
        ("jit(step)/jvp(SODA.encode)/encoder/projection/dot_general", "encoder, other"),
        ("", "other"),
    ],
)
def test_sources(name, source):
    text = f"""HloModule m

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %r = f32[8]{{0}} negate(%x), metadata={{op_name="{name}" stack_frame_id=1}}
}}
"""
    assert [one.source for one in traffic.kernels(text)] == [source]
    assert source in traffic.SOURCES


LOOP = """HloModule m

%taken (all: f32[6,8], i: s32[]) -> f32[1,8] {
  %all = f32[6,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %d = f32[1,8]{1,0} dynamic-slice(%all, %i, %zero), dynamic_slice_sizes={1,8}
}

%fused (all.1: f32[6,8], i.1: s32[]) -> f32[1,8] {
  %all.1 = f32[6,8]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %f = f32[1,8]{1,0} fusion(%all.1, %i.1), kind=kLoop, calls=%taken
  ROOT %t = f32[1,8]{1,0} tanh(%f)
}

%body (c: (s32[], f32[6,8])) -> (s32[], f32[6,8]) {
  %c = (s32[], f32[6,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %all.2 = f32[6,8]{1,0} get-tuple-element(%c), index=1
  %row = f32[1,8]{1,0} fusion(%all.2, %n), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[6,8]{1,0}) tuple(%n, %all.2)
}

%condition (c.1: (s32[], f32[6,8])) -> pred[] {
  %six = s32[] constant(6)
  %c.1 = (s32[], f32[6,8]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%c.1), index=0
  ROOT %less = pred[] compare(%n.1, LIMIT), direction=LT
}

ENTRY %main (s: (s32[], f32[6,8])) -> (s32[], f32[6,8]) {
  %s = (s32[], f32[6,8]{1,0}) parameter(0)
  %buffer = f32[6,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %w = (s32[], f32[6,8]{1,0}) while(%s), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(("limit", "rounds"), [("%six", 6), ("%n.1", 1)])
def test_a_tpus_loop_counts_to_its_conditions_limit(limit, rounds):
    (row, compare) = sorted(traffic.kernels(LOOP.replace("LIMIT", limit)), key=lambda one: one.kind, reverse=True)
    assert (compare.kind, compare.runs) == ("compare", 1)
    assert (row.runs, row.read, row.written) == (rounds, 32 + 4, 32)  # of the array, the one row


def test_both_branches_of_a_choice_count():
    text = """HloModule m

%yes (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%a)
}

%no (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %c = f32[8]{0} copy(%b)
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %r = f32[8]{0} conditional(%p, %x, %x), true_computation=%yes, false_computation=%no
}
"""
    assert [(one.kind, one.read, one.written) for one in traffic.kernels(text)] == [
        ("negate", 32, 32),
        ("copy", 32, 32),
    ]


@pytest.mark.parametrize(
    ("line", "read", "written"),
    [
        ("%r = f32[4]{0} slice(%x), slice={[0:4]}", 16, 16),
        ("%r = f32[2,2]{1,0} gather(%x, %i), offset_dims={1}", 16 + 8, 16),
        ("%r = f32[8]{0} dynamic-update-slice(%x, %i, %i)", 8, 8),
        ("%r = f32[8]{0} add(%x, %x)", 32, 32),
        ("%r = (f32[8]{0}, f32[8]{0}) copy-start(%x)", 32, 32),
        ("%r = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}", 32, 64),
        (
            '%r = (bf16[8]{0}, s8[4194304]{0}) custom-call(%x), custom_call_target="__cublas$lt$matmul"',
            32,
            16,
        ),
    ],
)
def test_bytes_of_an_instruction(line, read, written):
    text = f"""HloModule m

ENTRY %main (x: f32[8], i: s32[2]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %i = s32[2]{{0}} parameter(1)
  {line}
}}
"""
    (found,) = traffic.kernels(text)
    assert (found.read, found.written) == (read, written)
