// What quire.transformers gathers for query-value from the same files (weights in fp32) and the
// same tokens as the test: the mean over full layers up to the middle one, by token of the context.
#ifndef QUIRE_TESTS_CLIENT_LLAMA_VALUE_MASS_RECORDED_H_
#define QUIRE_TESTS_CLIENT_LLAMA_VALUE_MASS_RECORDED_H_

namespace quire::llama_test {

inline constexpr float kQwenValueMass[] = {
    2.202f,   0.1273f,  0.1211f,  0.1823f,  0.09714f, 0.05178f, 0.08189f, 0.09239f, 0.1216f,
    0.06109f, 0.03257f, 0.08485f, 0.2287f,  0.05951f, 0.1069f,  0.3233f,  0.1109f,  0.08107f,
    0.03322f, 0.06734f, 0.1075f,  0.05087f, 0.03978f, 0.07899f, 0.1773f,  0.09034f, 0.08109f,
    0.1299f,  0.06571f, 0.07657f, 0.04191f, 0.2322f,  0.058f,   0.2387f,  0.1445f,  0.1611f,
    0.1748f,  0.1151f,  0.1103f,  0.0648f,  0.2226f,  0.1429f,  0.0817f,  0.09179f, 0.06136f,
    0.1862f,  0.08526f, 0.1889f,  0.2409f,  0.08919f, 0.1365f,  0.0954f,  0.07115f, 0.09894f,
    0.1081f,  0.09764f, 0.1495f,  0.128f,   0.1203f,  0.08727f, 0.06656f, 0.3362f,  0.1792f,
    0.266f,   0.2966f,  0.528f,   0.6105f,  1.192f,   0.7273f,  1.35f};

inline constexpr float kGemmaValueMass[] = {
    0.004162f, 0.02287f, 0.0207f,  0.1905f, 0.1519f, 0.4789f, 0.3209f,  0.04375f, 0.04724f,
    0.1024f,   0.08064f, 0.05268f, 0.4455f, 0.2999f, 0.1624f, 0.1813f,  0.07155f, 0.1152f,
    0.2897f,   0.1418f,  0.1571f,  0.1337f, 0.7582f, 0.4361f, 0.06922f, 0.3204f,  0.4605f,
    1.045f,    0.459f,   0.5127f,  2.523f,  0.1674f, 0.5471f, 0.5753f,  1.169f,   0.04617f,
    1.074f,    0.4087f,  0.4505f,  0.4416f, 0.4337f, 0.1919f, 0.2376f,  0.5865f,  0.2903f,
    0.8028f,   1.637f,   0.4722f,  0.4375f, 1.266f,  0.4485f, 0.5019f,  0.4928f,  0.2641f,
    0.1571f,   0.1482f,  0.3425f,  0.5382f, 2.281f,  1.69f,   0.8197f,  1.124f,   1.769f,
    1.284f,    0.9858f,  2.008f,   1.14f,   1.984f,  2.621f,  1.29f};

}  // namespace quire::llama_test

#endif  // QUIRE_TESTS_CLIENT_LLAMA_VALUE_MASS_RECORDED_H_
