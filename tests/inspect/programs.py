"""Small programs as XLA writes them."""

LOOP = """HloModule step
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(f32[4]{0} %x), channel_id=1, to_apply=%add
}
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[4]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %g = (bf16[8,2]{1,0}, s32[]) all-gather(%p, %q), channel_id=2, dimensions={0}
  %u = f32[2]{0} add(%p, %p)
}
"""

# A depthwise convolution's weight gradient and a data gradient by cuDNN, a fused product of bytes, one by
# cuBLAS, a table of which two rows are taken, a buffer of which one row is written, and a pair that sends.
GPU = """HloModule jit_step, is_scheduled=true

%rows (parameter_0: f32[100,8], parameter_1: s32[2]) -> f32[2,8] {
  %parameter_0 = f32[100,8]{1,0} parameter(0)
  %table = f32[100,8]{1,0} bitcast(%parameter_0)
  %parameter_1 = s32[2]{0} parameter(1)
  ROOT %taken = f32[2,8]{1,0} gather(%table, %parameter_1), offset_dims={1}, slice_sizes={1,8}
}

%put (parameter_0.1: f32[100,8], parameter_1.1: f32[1,8], parameter_2.1: s32[]) -> f32[100,8] {
  %parameter_0.1 = f32[100,8]{1,0} parameter(0)
  %parameter_1.1 = f32[1,8]{1,0} parameter(1)
  %parameter_2.1 = s32[] parameter(2)
  ROOT %updated = f32[100,8]{1,0} dynamic-update-slice(%parameter_0.1, %parameter_1.1, %parameter_2.1, %parameter_2.1)
}

%product (parameter_0.2: s8[64,32], parameter_1.2: bf16[32,16]) -> f32[64,16] {
  %parameter_0.2 = s8[64,32]{1,0} parameter(0)
  %parameter_1.2 = bf16[32,16]{1,0} parameter(1)
  %wide = bf16[64,32]{1,0} convert(%parameter_0.2)
  ROOT %dot.1 = f32[64,16]{1,0} dot(%wide, %parameter_1.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[8,14,14,64], dy: bf16[8,14,14,64]) -> f32[64,16] {
  %x = bf16[8,14,14,64]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %dy = bf16[8,14,14,64]{3,2,1,0} parameter(1)
  %k = bf16[64,3,3,64]{3,2,1,0} parameter(2)
  %a = s8[64,32]{1,0} parameter(3)
  %b = bf16[32,16]{1,0} parameter(4)
  %t = f32[100,8]{1,0} parameter(5)
  %i = s32[2]{0} parameter(6)
  %dw = (bf16[64,3,3,1]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=64, custom_call_target="__cudnn$convBackwardFilter", metadata={op_name="jit(loss)/transpose(jvp(Net))/dw"}, backend_config={"algorithm":{"algo_id":"-1"}}
  %dx = (bf16[8,14,14,64]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput", metadata={op_name="jit(loss)/transpose(jvp(Net))/dx"}
  %y = f32[64,16]{1,0} fusion(%a, %b), kind=kCustom, calls=%product, metadata={op_name="jit(loss)/jvp(Net)/y"}
  %z = (f32[64,8]{1,0}, s8[0]{0}) custom-call(%y, %y), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}
  %r = f32[2,8]{1,0} fusion(%t, %i), kind=kLoop, calls=%rows
  %u = f32[100,8]{1,0} fusion(%t, %row, %one), kind=kLoop, calls=%put
  %one = s32[] constant(1)
  %row = f32[1,8]{1,0} slice(%r), slice={[0:1], [0:8]}
  %s = f32[100,8]{1,0} all-reduce-start(%u), channel_id=1, to_apply=%add
  %e = f32[100,8]{1,0} all-reduce-done(%s)
  ROOT %out = f32[64,16]{1,0} bitcast(%y)
}
"""  # noqa: E501

# Of %a three and five elements, of %b three of ten of hundred, of %c all, since it is joined, once.
PARTS = """HloModule jit_step, is_scheduled=true

%parts (a: f32[100], b: f32[100], c: f32[8]) -> (f32[3], f32[5]) {
  %a = f32[100]{0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %c = f32[8]{0} parameter(2)
  %root = f32[100]{0} sqrt(%a)
  %ten = f32[10]{0} slice(%b), slice={[20:30]}
  %three = f32[3]{0} slice(%ten), slice={[0:3]}
  %first = f32[3]{0} slice(%root), slice={[0:3]}
  %more = f32[5]{0} slice(%root), slice={[50:55]}
  %joined = f32[16]{0} concatenate(%c, %c), dimensions={0}
  %some = f32[5]{0} slice(%joined), slice={[0:5]}
  %again = f32[5]{0} slice(%c), slice={[0:5]}
  %last = f32[5]{0} add(%some, %again)
  %x = f32[3]{0} add(%first, %three)
  %y = f32[5]{0} multiply(%more, %last)
  ROOT %both = (f32[3]{0}, f32[5]{0}) tuple(%x, %y)
}

ENTRY %main (a: f32[100], b: f32[100], c: f32[8]) -> (f32[3], f32[5]) {
  %a = f32[100]{0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %c = f32[8]{0} parameter(2)
  ROOT %f = (f32[3]{0}, f32[5]{0}) fusion(%a, %b, %c), kind=kLoop, calls=%parts
}
"""
