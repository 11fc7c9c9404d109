/** The way in, over the page: what was typed below stays. */

import { Button, Input, Modal } from 'antd'
import { type FormEvent, useState } from 'react'
import { reasonOf, request } from './api'

export function Login({ onEnter }: { onEnter: () => void }) {
  const [key, setKey] = useState('')
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)

  async function enter(event: FormEvent) {
    event.preventDefault()
    setBusy(true)
    try {
      await request('POST', '/session', { key: key.trim() })
      onEnter()
    } catch (failure) {
      setError(reasonOf(failure))
    }
    setBusy(false)
  }

  return (
    <Modal open title="登录杏林" footer={null} closable={false} keyboard={false} mask={{ closable: false }} width={400} centered>
      <form className="login" onSubmit={enter}>
        <p>请输入访问密钥。没有密钥时，请向管理员索取。</p>
        <label htmlFor="key">密钥</label>
        <Input.Password
          id="key"
          size="large"
          autoFocus
          autoComplete="current-password"
          value={key}
          onChange={(event) => setKey(event.target.value)}
          aria-describedby="login-error"
        />
        <p id="login-error" role="alert" className="error">
          {error}
        </p>
        <Button type="primary" size="large" htmlType="submit" block loading={busy} disabled={!key.trim()}>
          进入
        </Button>
        <p className="quiet">本页由语言模型回答，不是医生。紧急情况请立即拨打 <a href="tel:120">120</a>。</p>
      </form>
    </Modal>
  )
}
