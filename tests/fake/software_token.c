/*
 * A FIDO token in software: what OpenSSH loads as SSH_SK_PROVIDER in place of its USB code, for tests.
 *
 * It makes real ed25519 keys and signs as PROTOCOL.u2f says, but protects nothing: the key handle is the secret seed
 * itself, and nothing is attested. The finger is a file: if SOFTWARE_TOKEN_TOUCH names one, each operation that wants a
 * touch waits until it is there, for at most TOUCH_S seconds; without that variable the token is always touched.
 *
 * The interface is that of OpenSSH's sk-api.h, as 9.1 and newer have it; libcrypto's few functions are declared here, so
 * that it builds without the headers.
 */

#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { API_VERSION = 0x000a0000, ED25519 = 1, USER_PRESENCE = 0x01 };
enum { GENERAL_ERROR = -1, UNSUPPORTED = -2 };
enum { SEED = 32, PUBLIC = 32, SIGNATURE = 64, HASH = 32, TOUCH_S = 30 };

struct sk_option;

struct sk_enroll_response {
    uint8_t flags;
    uint8_t *public_key;
    size_t public_key_len;
    uint8_t *key_handle;
    size_t key_handle_len;
    uint8_t *signature;
    size_t signature_len;
    uint8_t *attestation_cert;
    size_t attestation_cert_len;
    uint8_t *authdata;
    size_t authdata_len;
};

struct sk_sign_response {
    uint8_t flags;
    uint32_t counter;
    uint8_t *sig_r;
    size_t sig_r_len;
    uint8_t *sig_s;
    size_t sig_s_len;
};

struct sk_resident_key;

/* libcrypto */
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_md_st EVP_MD;
enum { EVP_PKEY_ED25519 = 1087 };
EVP_PKEY *EVP_PKEY_new_raw_private_key(int type, void *engine, const unsigned char *key, size_t len);
int EVP_PKEY_get_raw_public_key(const EVP_PKEY *pkey, unsigned char *pub, size_t *len);
void EVP_PKEY_free(EVP_PKEY *pkey);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *context);
int EVP_DigestSignInit(EVP_MD_CTX *context, void **pctx, const EVP_MD *type, void *engine, EVP_PKEY *pkey);
int EVP_DigestSign(EVP_MD_CTX *context, unsigned char *sig, size_t *siglen, const unsigned char *data, size_t len);
const EVP_MD *EVP_sha256(void);
int EVP_Digest(const void *data, size_t len, unsigned char *hash, unsigned int *size, const EVP_MD *type, void *engine);

/* Whether there was a touch in time. */
static int touched(void)
{
    const char *finger = getenv("SOFTWARE_TOKEN_TOUCH");
    const struct timespec moment = {.tv_nsec = 20 * 1000 * 1000};
    for (int left = TOUCH_S * 50; finger != NULL && access(finger, F_OK) != 0; left--) {
        if (left == 0)
            return 0;
        nanosleep(&moment, NULL);
    }
    return 1;
}

static int public_of(const uint8_t *seed, uint8_t *public)
{
    size_t len = PUBLIC;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, SEED);
    int done = key != NULL && EVP_PKEY_get_raw_public_key(key, public, &len) == 1;
    EVP_PKEY_free(key);
    return done;
}

static int sign(const uint8_t *seed, const uint8_t *data, size_t data_len, uint8_t *signature)
{
    size_t len = SIGNATURE;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, SEED);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int done = key != NULL && context != NULL && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
               EVP_DigestSign(context, signature, &len, data, data_len) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return done;
}

static int sha256(const void *data, size_t len, uint8_t *hash)
{
    return EVP_Digest(data, len, hash, NULL, EVP_sha256(), NULL) == 1;
}

uint32_t sk_api_version(void)
{
    return API_VERSION;
}

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application, uint8_t flags,
              const char *pin, struct sk_option **options, struct sk_enroll_response **response)
{
    (void)challenge, (void)challenge_len, (void)application, (void)pin, (void)options;
    if (alg != ED25519)
        return UNSUPPORTED;
    struct sk_enroll_response *made = calloc(1, sizeof *made);
    if (made == NULL)
        return GENERAL_ERROR;
    made->flags = flags; /* what the key will ask for at each signature */
    made->public_key = malloc(made->public_key_len = PUBLIC);
    made->key_handle = malloc(made->key_handle_len = SEED);
    made->signature = calloc(1, made->signature_len = SIGNATURE); /* of an attestation, which is none */
    if (made->public_key == NULL || made->key_handle == NULL || made->signature == NULL || !touched() ||
        getentropy(made->key_handle, SEED) != 0 || !public_of(made->key_handle, made->public_key)) {
        free(made->public_key);
        free(made->key_handle);
        free(made->signature);
        free(made);
        return GENERAL_ERROR;
    }
    *response = made;
    return 0;
}

int sk_sign(uint32_t alg, const uint8_t *data, size_t data_len, const char *application, const uint8_t *key_handle,
            size_t key_handle_len, uint8_t flags, const char *pin, struct sk_option **options,
            struct sk_sign_response **response)
{
    (void)pin, (void)options;
    if (alg != ED25519 || key_handle_len != SEED)
        return UNSUPPORTED;
    struct sk_sign_response *made = calloc(1, sizeof *made);
    if (made == NULL)
        return GENERAL_ERROR;
    made->flags = flags & USER_PRESENCE;
    made->counter = (uint32_t)time(NULL); /* it must not fall, and a clock need not be kept in a file */
    made->sig_r = malloc(made->sig_r_len = SIGNATURE);

    uint8_t signed_data[HASH + 1 + 4 + HASH]; /* application, flags, counter, message */
    signed_data[HASH] = made->flags;
    for (int byte = 0; byte < 4; byte++)
        signed_data[HASH + 1 + byte] = (uint8_t)(made->counter >> (24 - 8 * byte));
    if (made->sig_r == NULL || (made->flags && !touched()) || !sha256(application, strlen(application), signed_data) ||
        !sha256(data, data_len, signed_data + HASH + 5) ||
        !sign(key_handle, signed_data, sizeof signed_data, made->sig_r)) {
        free(made->sig_r);
        free(made);
        return GENERAL_ERROR;
    }
    *response = made;
    return 0;
}

int sk_load_resident_keys(const char *pin, struct sk_option **options, struct sk_resident_key ***keys, size_t *count)
{
    (void)pin, (void)options, (void)keys, (void)count;
    return UNSUPPORTED; /* it keeps no keys */
}
